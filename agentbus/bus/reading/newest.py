"""Reads the few messages that a stream has got between two times, with their payloads, and without a consumer.

A request for one message costs a tenth of a consumer, and most streams have none of a page, which one request tells.
"""

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
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.parties.ledger_streams import is_whole
from agentbus.protocol.stored_message import StoredMessage

_MOST_BYTES: Final = 16 << 10
"""How long the messages of a stream may be in the mean: a consumer can leave out payloads, and this cannot."""
_MOST_OF_ONE: Final = 4
"""How many messages of one stream are read so."""
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


@dataclass(frozen=True, slots=True)
class Between:
    """What was read between two times.

    Attributes:
        messages: of each subject the last one.
        first: all messages from this sequence on are of the earlier time or newer; that of the first one, if there are.
        to_the_end: whether `messages` are all of those.
    """

    messages: list[Whole]
    first: int
    to_the_end: bool


def may_be_asked(bus: Bus, part: Part) -> bool:
    """Whether messages of a part can be read so: then it is all of its stream."""
    if part.info is None or bus in _refused or not is_whole(part.stream, part.subject):
        return False
    state = part.info.state
    return state.messages > 0 and state.bytes <= _MOST_BYTES * state.messages


async def read_between(bus: Bus, part: Part, since: datetime, until: datetime | None) -> Between | None:
    """Read what a part has got from one time on and before another one; None says nothing: it is to be read otherwise.

    Of a stream that has more of it than a few messages, a consumer reads them for less.

    Args:
        until: None for the end of the stream; a message that is stored meanwhile may be read, too.
    """
    assert part.info is not None, "`may_be_asked` said so"
    stream, end = part.stream, part.info.state.last_seq
    found: dict[str, Whole] = {}
    first: int | None = None
    wanted: dict[str, Json] = {"start_time": since.isoformat()}
    for _ in range(_MOST_OF_ONE + 1):
        try:
            message = read_direct(await bus.request(subjects.direct_get(stream), encode(wanted)))
        except (NoRespondersError, PermissionDeniedError):
            return None
        except ApiError:
            _refused.add(bus)
            return None
        if message is None:
            return Between(list(found.values()), first or end + 1, to_the_end=True)
        first = first or message.seq
        if until is not None and message.time >= until:
            return Between(list(found.values()), first, to_the_end=False)
        found.pop(message.subject, None)  # it has changed meanwhile, and now belongs at the end
        if _UNINDEXED not in message.subject:
            found[message.subject] = Whole(message)
        if message.seq == end:
            return Between(list(found.values()), first, to_the_end=True)
        wanted = {"seq": message.seq + 1, "next_by_subj": ">"}
    return None
