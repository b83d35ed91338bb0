"""Reads the ledger from its last change backwards, without payloads, in windows that grow.

Where the ledger is one stream, sequences order the changes. Where each agent has a stream, times do.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.backwards import GROWTH, BackwardsReader, Keep, Read, Window
from agentbus.bus.reading.ephemeral_consumers import count_after, count_from
from agentbus.bus.reading.ledger_parts import Part, ends_of, ledger_parts
from agentbus.bus.reading.merging import MergedReader, time_at
from agentbus.concurrently import concurrently
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import is_whole, ledger_of
from agentbus.protocol.timestamps import parse_time

_QUICK_S: Final = 0.25
"""A window that was read within this time is followed by a larger one, and one that took four times as long by a
smaller one: callers look at the clock between two."""
_MOST: Final = 2_500
"""How many messages a window is to hold, at most; it has room for four times as many, which are read in about a quarter
of a second, and of which those that are kept are in memory together."""
_COUNTS_AT_ONCE: Final = 16


class LedgerReader:
    """What is wanted of the ledger, in the order of its changes.

    Positions order the entries: sequences, or times in microseconds where each agent has a stream.

    Attributes:
        divided: whether each agent has a stream.
    """

    def __init__(self, bus: Bus, parts: Sequence[Part]) -> None:
        self._bus = bus
        self._parts = parts
        self._merged: MergedReader | None = None
        self.divided = [part.stream for part in parts] != [subjects.STATE_STREAM]

    @classmethod
    async def of(cls, bus: Bus, subject: str) -> Self:
        """Make a reader of the entries that a filter means.

        Raises:
            BusUnavailableError: the bus did not answer.
        """
        return cls(bus, await ledger_parts(bus, subject))

    def position(self, entry: Read) -> int:
        """Where an entry is in the order of all."""
        return entry.stored_at_us if self.divided else entry.stream_seq

    async def windows(
        self, *, keep: Keep, count: int, most: int = _MOST, before: int | None = None
    ) -> AsyncGenerator[Window]:
        """Yield windows of the entries, from the newest to the first one; their `bottom` is a position.

        A message that is replaced meanwhile by one that is newer than the window is in none.

        Args:
            keep: whether an entry is kept. It is called with each, in no order.
            count: how many entries the first window is to hold, about.
            most: how many a later one is to hold, about.
            before: read only entries below this position.

        Raises:
            MessageError: `before` is no position in this ledger.
            SetupMissingError: there is no ledger.
            PermissionDeniedError: this user may not read it.
        """
        if self.divided:
            source = self._merged = MergedReader(self._bus, self._parts, keep)
        else:
            source = _Single(self._bus, self._parts[0], keep)
        await source.start(before)
        clock = asyncio.get_running_loop().time
        while not source.done:
            started = clock()
            window = await source.read(count)
            took_s = clock() - started
            yield window
            if took_s < _QUICK_S:
                count = max(count, min(most, GROWTH * count))
            elif took_s > GROWTH * _QUICK_S:
                count = max(1, count // GROWTH)

    def let_go(self, agent: str) -> None:
        """Read no more entries of an agent, from the next window on, where it has a stream of its own."""
        if self._merged is not None:
            self._merged.let_go(ledger_of(agent))

    @property
    def held_back(self) -> int | None:
        """The position of the oldest entry that was kept and is in no window yet; None if there is none.

        What one of several streams has is held back until the others have been read as far.
        """
        return self._merged.held_back if self._merged is not None else None

    async def count_unread(self, position: int) -> int:
        """Count the entries below a position that were not looked at."""

        async def one(part: Part) -> int:
            if self._merged is not None:
                return await _count_before(self._bus, part, time_at(position), self._merged.read_of(part))
            later = await count_after(self._bus, part.stream, part.subject, position - 1)
            return max(0, await count_after(self._bus, part.stream, part.subject, 0) - later)

        return sum(await concurrently(self._parts, one, at_once=_COUNTS_AT_ONCE))


async def _count_before(bus: Bus, part: Part, time: datetime, later: int | None) -> int:
    """Count the entries of one part that were stored before a time; none where it may not be read.

    Args:
        later: how many other ones it has, if that is known.
    """
    if part.info is not None and parse_time(part.info.state.first_time) >= time:
        return 0
    if part.info is not None and is_whole(part.stream, part.subject) and parse_time(part.info.state.last_time) < time:
        return part.info.state.messages
    try:
        if later is None:
            _, later = await count_from(bus, part.stream, part.subject, time)
        return max(0, await count_after(bus, part.stream, part.subject, 0) - later)
    except (PermissionDeniedError, SetupMissingError):
        return 0


class _Single:
    """The one stream of a ledger that is not divided."""

    def __init__(self, bus: Bus, part: Part, keep: Keep) -> None:
        self._reader = BackwardsReader(bus, part.stream, part.subject, keep)
        self._ends = ends_of(part)

    async def start(self, before: int | None) -> None:
        await self._reader.start(before, self._ends)

    @property
    def done(self) -> bool:
        return self._reader.done

    async def read(self, count: int) -> Window:
        return await self._reader.read(count)
