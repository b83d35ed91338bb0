"""Finds out on the real server whether a user may use a subject, without any effect.

It sends a message that JetStream must refuse: to a stream, one with an expected last sequence that no stream has; to
the API, a body that is no request. If its content is refused, the message was let through.
"""

from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusUnavailableError, NoRespondersError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.headers import EXPECTED_LAST_SEQUENCE

STAND_IN: Final = "agentbus-doctor"
"""Stands for the wildcards of a permission; no agent and no stream may have this name."""
_NEVER: Final = {EXPECTED_LAST_SEQUENCE: str(2**64 - 1)}
_NO_REQUEST: Final = b"?"
_IN_PROGRESS: Final = b"+WPI"
_WAIT_S: Final = 0.5  # a refusal takes one round trip; where nothing answers, each probe takes this long


def concrete(subject: str) -> str:
    """Return one subject that a permission with wildcards covers."""
    if subject == subjects.api(">"):
        return subjects.api("STREAM.NAMES")
    return ".".join(STAND_IN if token in ("*", ">") else token for token in subject.split("."))


async def may_send(bus: Bus, subject: str, *, answered: bool = True) -> bool:
    """Return whether the server lets this user publish on a subject without wildcards, and delivers it.

    Args:
        answered: whether a message there is always answered; if not, only a refusal counts as a no.

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
        return True  # allowed, and nothing answers
    return True
