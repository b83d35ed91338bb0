"""Merges the streams of several agents by time, from the newest entry backwards.

A stream is read in small windows that grow only while more of it is needed. What is read is held back until no other
stream can have a newer entry. So a page takes about as many windows as it has entries, however many streams there are,
and however long they are. Where there are more streams than entries are wanted, as many streams as that have the newest
page: of most of them it has the newest entry alone, which is read without a consumer (`agentbus.bus.reading.newest`).
Below a cursor nothing is known of a stream that has changed since: each of those is looked at once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.backwards import GROWTH, BackwardsReader, Keep, Read, Window
from agentbus.bus.reading.ledger_parts import Part, hide
from agentbus.bus.reading.newest import may_be_asked, only_since
from agentbus.concurrently import concurrently
from agentbus.errors import MessageError, PermissionDeniedError, SetupMissingError
from agentbus.protocol.timestamps import parse_time

_FIRST_AT_ONCE: Final = 4
_MOST_AT_ONCE: Final = 16
"""How many streams are read at the same time: few at first, for often a few of them have the newest page."""
_LEAST: Final = 8
"""How many entries a window is to hold, at least: opening one costs about as much as reading fifty."""
_LEAST_OF_MANY: Final = 2
"""The same where fewer entries are wanted than there are streams: most windows have none of them."""
_MOST_TOGETHER: Final = 2_500
"""How many the windows of one round are to hold, at most, unless that is less than the least: see `LedgerReader`."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LEAST_TIME: Final = 10**14
"""No change has a position below this one where positions are times: it is a day in 1973."""


def position_of(time: datetime) -> int:
    """The position of what was stored at a time."""
    return (time - _EPOCH) // _MICROSECOND


def time_at(position: int) -> datetime:
    """The time of a position."""
    return _EPOCH + position * _MICROSECOND


@dataclass(slots=True, eq=False)
class _Stream:
    """One of the streams.

    Attributes:
        horizon: all that is not read is older than this.
        newest_read: its newest entry was read without a consumer.
        count: how many entries the next window is to hold, about.
        held: what was read and not passed on, the newest first.
    """

    part: Part
    reader: BackwardsReader
    horizon: datetime
    newest_read: bool = False
    started: bool = False
    count: int = 0
    held: deque[Read] = field(default_factory=deque[Read])


class MergedReader:
    """The streams of several agents, in the order of time; see `BackwardsReader`."""

    def __init__(self, bus: Bus, parts: Sequence[Part], keep: Keep) -> None:
        self._bus = bus
        self._keep = keep
        self._fresh = True  # nothing was read so far
        self._before: datetime | None = None
        self._refusal: PermissionDeniedError | SetupMissingError | None = None
        self._one_was_read = False
        self._at_once = _FIRST_AT_ONCE
        self._streams: list[_Stream] = [
            _Stream(part, BackwardsReader(bus, part.stream, part.subject, keep), _newest_in(part))
            for part in parts
            if part.info is None or part.info.state.messages
        ]
        self._unread = list(self._streams)

    async def start(self, before: int | None) -> None:
        """Leave out what has nothing before a position."""
        if before is None:
            return
        if before < _LEAST_TIME:
            raise MessageError(f"{before} is no cursor of this bus any more: list again without it")
        self._before = time_at(before)
        self._streams = [one for one in self._streams if _has_older(one.part, self._before)]
        self._unread = list(self._streams)
        for stream in self._unread:
            stream.horizon = min(stream.horizon, self._before)

    @property
    def done(self) -> bool:
        """Whether every entry was passed on."""
        return not self._unread and not any(one.held for one in self._streams)

    async def read(self, count: int) -> Window:
        """Read a window of those streams whose next entry may be the newest one, and pass on what must be so.

        Together the windows are to hold about `count` entries. The `bottom` is below that of the call before.
        """
        since = self._first_left_out(count)
        if since is not None:
            now = [one for one in self._unread if one.horizon > since]
            read = sum(await concurrently(now, lambda one: self._read_newest(one, since), at_once=_MOST_AT_ONCE))
        else:
            read = await self._read_windows(count)
        if self._refusal is not None and not self._unread and not self._one_was_read:
            raise self._refusal  # this user may read none of them
        horizon = max((one.horizon for one in self._unread), default=None)
        passed = self._take_from(horizon)
        bottom = 0 if horizon is None else position_of(horizon)
        oldest = horizon or (passed[-1].stored_at if passed else None)
        return Window(passed, bottom, oldest, read, self.done)

    async def _read_windows(self, count: int) -> int:
        """Read a window of each of the streams that are next; returns how many entries they had."""
        now = self._next()
        if not now:
            return 0
        few = count < len(self._streams)
        first = _LEAST_OF_MANY if few else max(_LEAST, -(-count // min(len(self._streams), _FIRST_AT_ONCE)))
        most = max(_LEAST, min(count // _FIRST_AT_ONCE, _MOST_TOGETHER // len(now)))
        for one in now:
            one.count = min(most, GROWTH * one.count or first)
        return sum(await concurrently(now, self._read, at_once=_MOST_AT_ONCE))

    def let_go(self, stream: str) -> None:
        """Read no more of a stream."""
        self._unread = [one for one in self._unread if one.part.stream != stream]

    def _first_left_out(self, count: int) -> datetime | None:
        """Return the time from which on `count` streams have entries, and no other one has; None if there is none.

        None, too, after the first round, and where the newest entries cannot be read one by one.
        """
        fresh, self._fresh = self._fresh and self._before is None, False
        if not fresh:
            return None
        self._unread.sort(key=lambda one: one.horizon, reverse=True)
        if len(self._unread) <= count or not all(may_be_asked(self._bus, one.part) for one in self._unread[:count]):
            return None
        since = self._unread[count].horizon
        return since if self._unread[0].horizon > since else None

    async def _read_newest(self, one: _Stream, since: datetime) -> int:
        """Read what a stream has got since a time, if that is one entry; a window of it otherwise."""
        found = await only_since(self._bus, one.part, since)
        if found is None:
            one.count = _LEAST
            return await self._read(one)
        self._one_was_read = one.newest_read = True
        one.horizon = since
        if self._keep(found):
            one.held.append(found)
        if one.part.info is not None and one.part.info.state.messages == 1:
            self._unread.remove(one)
        return 1

    def _next(self) -> list[_Stream]:
        """Choose the streams with the newest horizons: some, and all that share the first one.

        Below a cursor many share it, and none of them can be passed before all were read.
        """
        self._unread.sort(key=lambda one: one.horizon, reverse=True)
        chosen = self._at_once
        while chosen < len(self._unread) and self._unread[chosen].horizon == self._unread[0].horizon:
            chosen += 1
        self._at_once = min(_MOST_AT_ONCE, 2 * self._at_once)
        return self._unread[:chosen]

    def _take_from(self, horizon: datetime | None) -> list[Read]:
        """Take what is held and as new as that, the newest first; all of it where there is no horizon."""
        bottom = 0 if horizon is None else position_of(horizon)
        taken: list[Read] = []
        for one in self._streams:
            while one.held and one.held[0].stored_at_us >= bottom:
                taken.append(one.held.popleft())
        return sorted(taken, key=lambda entry: entry.stored_at_us, reverse=True)

    async def _read(self, one: _Stream) -> int:
        """Read a window of one stream; returns how many entries it had."""
        try:
            if not one.started:
                await self._start(one)
            window = None if one.reader.done else await one.reader.read(one.count)
        except (PermissionDeniedError, SetupMissingError) as error:
            if isinstance(error, PermissionDeniedError):
                hide(self._bus, one.part)
            self._refusal = error
            self._unread.remove(one)
            return 0
        self._one_was_read = True
        if window is not None:
            one.held.extend(window.messages)
            one.horizon = window.oldest or one.horizon
        if window is None or window.last:
            self._unread.remove(one)
        return window.read if window is not None else 0

    async def _start(self, one: _Stream) -> None:
        state = one.part.info.state if one.part.info is not None else None
        ends = (max(1, state.first_seq), state.last_seq) if state is not None else None
        if one.newest_read and ends is not None:
            await one.reader.start(ends[1], ends, later=1)
            one.started = True
            return
        unchanged = self._before is not None and ends is not None and _newest_in(one.part) <= self._before
        await one.reader.start(self._before, ends, later=0 if unchanged else None)
        one.started = True


def _newest_in(part: Part) -> datetime:
    """The time from which on a part has no entry, as far as is known."""
    if part.info is None:
        return datetime.max.replace(tzinfo=UTC)
    return parse_time(part.info.state.last_time) + _MICROSECOND


def _has_older(part: Part, before: datetime) -> bool:
    """Whether a part may have an entry from before a time."""
    return part.info is None or parse_time(part.info.state.first_time) < before
