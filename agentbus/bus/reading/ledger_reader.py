"""Reads the ledger from its last change backwards, without payloads, in windows that grow.

Where the ledger is one stream, sequences order the changes. Where each agent has a stream, times do: those streams are
read of which the next change may be the newest one left, a few at once, and what is read is held back until no other
stream can have a newer one. So the newest page costs no more than the streams that it is of.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import count_after, count_from
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.backwards import GROWTH, BackwardsReader, Window
from agentbus.bus.reading.ledger_parts import Part, hide, ledger_parts
from agentbus.concurrently import concurrently
from agentbus.errors import MessageError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import is_whole
from agentbus.protocol.timestamps import parse_time

_QUICK_S: Final = 0.25
"""A window that was read within this time is followed by a larger one, and one that took four times as long by a
smaller one: callers look at the clock between two."""
_MOST: Final = 2_500
"""How many messages a window is to hold, at most; it has room for four times as many, which are read in about a quarter
of a second, and of which those that are kept are in memory together."""
_STREAMS_AT_ONCE: Final = 4
_COUNTS_AT_ONCE: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LEAST_TIME: Final = 10**14
"""No change has a position below this one where positions are times: it is a day in 1973."""

Keep = Callable[[Delivery], bool]


class LedgerReader:
    """What is wanted of the ledger, in the order of its changes.

    Positions order the entries: sequences, or times in microseconds where each agent has a stream.
    """

    def __init__(self, bus: Bus, parts: Sequence[Part]) -> None:
        self._bus = bus
        self._parts = parts
        self._divided = [part.stream for part in parts] != [subjects.STATE_STREAM]

    @classmethod
    async def of(cls, bus: Bus, subject: str) -> Self:
        """Make a reader of the entries that a filter means.

        Raises:
            BusUnavailableError: the bus did not answer.
        """
        return cls(bus, await ledger_parts(bus, subject))

    def position(self, entry: Delivery) -> int:
        """Where an entry is in the order of all."""
        return (entry.stored_at - _EPOCH) // _MICROSECOND if self._divided else entry.stream_seq

    async def windows(self, *, keep: Keep, count: int, before: int | None = None) -> AsyncGenerator[Window]:
        """Yield windows of the entries, from the newest to the first one; their `bottom` is a position.

        A message that is replaced meanwhile by one that is newer than the window is in none.

        Args:
            keep: whether an entry is kept. It is called with each, in no order.
            count: how many entries the first window is to hold, about.
            before: read only entries below this position.

        Raises:
            MessageError: `before` is no position in this ledger.
            SetupMissingError: there is no ledger.
            PermissionDeniedError: this user may not read it.
        """
        source = _Merged(self._bus, self._parts, keep) if self._divided else _Single(self._bus, self._parts[0], keep)
        await source.start(before)
        clock = asyncio.get_running_loop().time
        while not source.done:
            started = clock()
            window = await source.read(count)
            took_s = clock() - started
            yield window
            if took_s < _QUICK_S:
                count = min(_MOST, GROWTH * count)
            elif took_s > GROWTH * _QUICK_S:
                count = max(1, count // GROWTH)

    async def count_below(self, position: int) -> int:
        """Count the entries below a position."""

        async def one(part: Part) -> int:
            if self._divided:
                return await _count_before(self._bus, part, _time_at(position))
            later = await count_after(self._bus, part.stream, part.subject, position - 1)
            return max(0, await count_after(self._bus, part.stream, part.subject, 0) - later)

        return sum(await concurrently(self._parts, one, at_once=_COUNTS_AT_ONCE))


async def _count_before(bus: Bus, part: Part, time: datetime) -> int:
    """Count the entries of one part that were stored before a time; none where it may not be read."""
    if part.info is not None and parse_time(part.info.state.first_time) >= time:
        return 0
    if part.info is not None and is_whole(part.stream, part.subject) and parse_time(part.info.state.last_time) < time:
        return part.info.state.messages
    try:
        _, later = await count_from(bus, part.stream, part.subject, time)
        return max(0, await count_after(bus, part.stream, part.subject, 0) - later)
    except (PermissionDeniedError, SetupMissingError):
        return 0


def _time_at(position: int) -> datetime:
    return _EPOCH + position * _MICROSECOND


class _Single:
    """The one stream of a ledger that is not divided."""

    def __init__(self, bus: Bus, part: Part, keep: Keep) -> None:
        self._reader = BackwardsReader(bus, part.stream, part.subject, keep)

    async def start(self, before: int | None) -> None:
        await self._reader.start(before)

    @property
    def done(self) -> bool:
        return self._reader.done

    async def read(self, count: int) -> Window:
        return await self._reader.read(count)


@dataclass(slots=True, eq=False)
class _Stream:
    """One of several streams.

    Attributes:
        horizon: all that is not read is older than this.
    """

    part: Part
    reader: BackwardsReader
    horizon: datetime
    started: bool = False


class _Merged:
    """The streams of several agents, in the order of time."""

    def __init__(self, bus: Bus, parts: Sequence[Part], keep: Keep) -> None:
        self._bus = bus
        self._before: datetime | None = None
        self._refusal: PermissionDeniedError | SetupMissingError | None = None
        self._one_was_read = False
        self._unread: list[_Stream] = [
            _Stream(part, BackwardsReader(bus, part.stream, part.subject, keep), _newest_in(part))
            for part in parts
            if part.info is None or part.info.state.messages
        ]
        self._held: list[Delivery] = []

    async def start(self, before: int | None) -> None:
        """Leave out what has nothing before a position."""
        if before is None:
            return
        if before < _LEAST_TIME:
            raise MessageError(f"{before} is no cursor of this bus any more: list again without it")
        self._before = _time_at(before)
        for stream in self._unread:
            stream.horizon = min(stream.horizon, self._before)

    @property
    def done(self) -> bool:
        return not self._unread and not self._held

    async def read(self, count: int) -> Window:
        """Read a window of those streams whose next entry may be the newest one, and pass on what must be so."""
        self._unread.sort(key=lambda one: one.horizon, reverse=True)
        now = self._unread[:_STREAMS_AT_ONCE]
        read = sum(await concurrently(now, lambda one: self._read(one, count), at_once=_STREAMS_AT_ONCE))
        if self._refusal is not None and not self._unread and not self._one_was_read:
            raise self._refusal  # this user may read none of them
        horizon = max((one.horizon for one in self._unread), default=None)
        passed = self._take_from(horizon)
        bottom = 0 if horizon is None else (horizon - _EPOCH) // _MICROSECOND
        return Window(passed, bottom, horizon or _first_time(passed), read, self.done)

    def _take_from(self, horizon: datetime | None) -> list[Delivery]:
        """Take what is held and as new as that, the newest first; all of it where there is no horizon."""
        taken = [one for one in self._held if horizon is None or one.stored_at >= horizon]
        self._held = [one for one in self._held if horizon is not None and one.stored_at < horizon]
        return sorted(taken, key=lambda one: one.stored_at, reverse=True)

    async def _read(self, one: _Stream, count: int) -> int:
        """Read a window of one stream; returns how many entries it had."""
        try:
            if not one.started:
                state = one.part.info.state if one.part.info is not None else None
                ends = (max(1, state.first_seq), state.last_seq) if state is not None else None
                await one.reader.start(self._before, ends)
                one.started = True
            window = None if one.reader.done else await one.reader.read(count)
        except (PermissionDeniedError, SetupMissingError) as error:
            if isinstance(error, PermissionDeniedError):
                hide(self._bus, one.part)
            self._refusal = error
            self._unread.remove(one)
            return 0
        self._one_was_read = True
        if window is not None:
            self._held += window.messages
            one.horizon = window.oldest or one.horizon
        if window is None or window.last:
            self._unread.remove(one)
        return window.read if window is not None else 0


def _first_time(entries: Sequence[Delivery]) -> datetime | None:
    return entries[-1].stored_at if entries else None


def _newest_in(part: Part) -> datetime:
    """The time from which on a part has no entry, as far as is known."""
    if part.info is None:
        return datetime.max.replace(tzinfo=UTC)
    return parse_time(part.info.state.last_time) + _MICROSECOND
