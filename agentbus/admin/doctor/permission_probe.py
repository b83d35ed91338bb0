"""Tests on the real server whether a user may publish on a subject, without any effect.

It sends a message that JetStream must refuse: to a stream, one with an expected last sequence that no stream has; to
the API, a body that is not JSON. If JetStream refuses the content, the permission exists.
"""

from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusUnavailableError, NoRespondersError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.headers import EXPECTED_LAST_SEQUENCE

PLACEHOLDER: Final = "agentbus-doctor"
"""Replaces the wildcards of a permission. No agent and no stream may have this name."""
_NEVER: Final = {EXPECTED_LAST_SEQUENCE: str(2**64 - 1)}
_NO_REQUEST: Final = b"?"
_IN_PROGRESS: Final = b"+WPI"
_WAIT_S: Final = 0.5  # a refusal takes one round trip; a subject without a responder takes this long


def example_subject(subject: str) -> str:
    """Return a subject that a permission with wildcards covers."""
    if subject == subjects.api(">"):
        return subjects.api("STREAM.NAMES")
    if subject == subjects.STATE_SUBJECTS:  # where each party has a ledger, that of `main` takes a key
        return subjects.mcp_tasks(subjects.COORDINATOR).replace("*", PLACEHOLDER)
    return ".".join(PLACEHOLDER if token in ("*", ">") else token for token in subject.split("."))


async def may_publish(bus: Bus, subject: str, *, answered: bool = True) -> bool:
    """Return whether the server lets this user publish on a subject without wildcards, and delivers it.

    Args:
        answered: whether a message on the subject is always answered. If not, only a refusal means that the user may
            not publish.

    Raises:
        BusUnavailableError: the connection is lost.
    """
    to_api = subject.startswith("$JS.API.")
    acknowledges = subject.startswith("$JS.ACK.")
    data = _NO_REQUEST if to_api else _IN_PROGRESS if acknowledges else b"{}"
    headers = None if to_api or acknowledges else _NEVER
    try:
        await bus.request(subject, data, headers=headers, timeout_s=_WAIT_S)
    except PermissionDeniedError:
        return False
    except NoRespondersError:
        return not answered or acknowledges
    except BusUnavailableError:
        if not bus.connected:
            raise
        return True  # permitted, but nothing answers on this subject
    return True
