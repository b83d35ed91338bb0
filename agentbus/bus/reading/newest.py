"""Reads the one message that a stream has got since a time, with its payload, in one request and without a consumer."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from weakref import WeakSet

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_direct
from agentbus.bus.reading.ledger_parts import Part
from agentbus.errors import ApiError, NoRespondersError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.headers import Headers
from agentbus.protocol.json_codec import encode
from agentbus.protocol.parties.ledger_streams import is_whole
from agentbus.protocol.stored_message import StoredMessage

_MOST_BYTES: Final = 16 << 10
"""How long the messages of a stream may be in the mean: a consumer can leave out payloads, and this cannot."""
_UNINDEXED: Final = "\x7f"
"""See `agentbus.bus.ordered_consumer`, which leaves such messages out."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_refused: WeakSet[Bus] = WeakSet()
"""The connections whose server takes no such request: one before 2.11."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A message that was read with its payload, as a `Delivery` tells of one."""

    stored: StoredMessage

    @property
    def stream_seq(self) -> int:
        """Its sequence in its stream."""
        return self.stored.seq

    @property
    def stored_at(self) -> datetime:
        """When the server stored it; cut to microseconds."""
        return self.stored.time

    @property
    def stored_at_us(self) -> int:
        """The same, in microseconds since the epoch."""
        return (self.stored.time - _EPOCH) // _MICROSECOND

    @property
    def subject(self) -> str:
        """The subject that it was published on."""
        return self.stored.subject

    @property
    def headers(self) -> Headers:
        """Its headers."""
        return self.stored.headers


def may_be_asked(bus: Bus, part: Part) -> bool:
    """Whether the newest message of a part can be read so: then it is the newest one of its stream."""
    if part.info is None or bus in _refused or not is_whole(part.stream, part.subject):
        return False
    state = part.info.state
    return state.messages > 0 and state.bytes <= _MOST_BYTES * state.messages


async def only_since(bus: Bus, part: Part, time: datetime) -> Whole | None:
    """Return the newest message of a part, if it is the only one that was stored at a time or later.

    None says nothing: there may be several, or a newer one by now, or the server was not to be asked.
    """
    assert part.info is not None, "`may_be_asked` said so"
    wanted = encode({"start_time": time.isoformat()})
    try:
        message = read_direct(await bus.request(subjects.direct_get(part.stream), wanted))
    except (NoRespondersError, PermissionDeniedError):
        return None
    except ApiError:
        _refused.add(bus)
        return None
    if message is None or message.seq != part.info.state.last_seq or _UNINDEXED in message.subject:
        return None
    return Whole(message)
