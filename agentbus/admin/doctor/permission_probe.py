"""Whether a user may use a subject, found out on the real server without any effect.

A message that JetStream must refuse is sent: to a stream with an expected last sequence that no stream has, to the API
with a body that is no request. A refusal of its content means that it has arrived.
"""

from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusUnavailableError, NoRespondersError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.headers import EXPECTED_LAST_SEQUENCE

STAND_IN: Final = "agentbus-doctor"
"""What stands for the wildcards of a permission; nobody may call an agent or a stream so."""
_NEVER: Final = {EXPECTED_LAST_SEQUENCE: str(2**64 - 1)}
_NO_REQUEST: Final = b"?"
_IN_PROGRESS: Final = b"+WPI"
_WAIT_S: Final = 0.5


def concrete(subject: str) -> str:
    """One subject that a permission with wildcards covers."""
    if subject == subjects.api(">"):
        return subjects.api("STREAM.NAMES")
    return ".".join(STAND_IN if token in ("*", ">") else token for token in subject.split("."))


async def may_send(bus: Bus, subject: str, *, answered: bool = True) -> bool:
    """Whether the server takes messages of this user on a subject (without wildcards) to where they belong.

    Args:
        answered: whether somebody answers there for sure; where not, only a refusal says no.

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
        return True  # allowed, and nobody answers
    return True
