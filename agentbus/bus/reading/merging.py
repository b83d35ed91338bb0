"""Merges the streams of several agents by time, from the newest entry backwards.

A stream is read in small windows that grow only while more of it is needed. What is read is held back until no other
stream can have a newer entry. So a page takes about as many windows as it has entries, however many streams there are,
and however long they are. Where there are more streams than entries are wanted, most streams have one entry of a page
or none: those between two times are read without consumers (`agentbus.bus.reading.newest`). For the newest page the
states of the streams say from which time on. Below a cursor nothing is known of a stream that has changed since: the
time is estimated from how much they hold and what a few of them had then, and each of them is asked once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.backwards import GROWTH, BackwardsReader, Keep, Read, Window
from agentbus.bus.reading.ledger_parts import Part, ends_of, hide
from agentbus.bus.reading.newest import may_be_asked, read_between
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
_ASKED_AT_ONCE: Final = 32
"""How many streams are asked for single entries at the same time: that costs the server less than a window."""
_SLICES: Final = 3
"""How many spans of time may have less than half of what is wanted, before windows are read instead."""
_ROOM: Final = 1.25
"""How much more than what is wanted a span of time is to hold: another one would ask each stream once more."""
_SAMPLE: Final = 6
"""How many streams are asked first below a cursor: what all hold tells little of what they got there."""
_NARROWEST: Final = 1_000
_WIDEST: Final = 16
"""How many times as long as the span before a span is, at most."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LONGEST: Final = timedelta(days=400)
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
        top: all entries from this sequence on were read, without a consumer; None if none was read so.
        later: how many those are; None if that is not known.
        count: how many entries the next window is to hold, about.
        held: what was read and not passed on, the newest first.
    """

    part: Part
    reader: BackwardsReader
    horizon: datetime
    top: int | None = None
    later: int | None = None
    started: bool = False
    count: int = 0
    held: deque[Read] = field(default_factory=deque[Read])


class MergedReader:
    """The streams of several agents, in the order of time; see `BackwardsReader`."""

    def __init__(self, bus: Bus, parts: Sequence[Part], keep: Keep) -> None:
        self._bus = bus
        self._keep = keep
        self._slices = _SLICES
        self._page = 0  # how many entries are wanted at first: the counts of later windows grow
        self._span: timedelta | None = None  # how much time the last slice covered
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
        read = await self._read_round(count)
        if self._refusal is not None and not self._unread and not self._one_was_read:
            raise self._refusal  # this user may read none of them
        horizon = max((one.horizon for one in self._unread), default=None)
        passed = self._take_from(horizon)
        bottom = 0 if horizon is None else position_of(horizon)
        oldest = horizon or (passed[-1].stored_at if passed else None)
        return Window(passed, bottom, oldest, read, self.done)

    async def _read_round(self, count: int) -> int:
        """Read some of what is next; returns how many entries that were."""
        self._unread.sort(key=lambda one: one.horizon, reverse=True)
        self._page = self._page or count
        behind = self._behind_the_slices() if self._slices else []
        wanted = max(self._page, min(count, len(self._unread) - 1))
        since = self._slice(wanted) if not behind else None
        if since is None:
            return await self._read_windows(behind or self._next(), count)
        sample = 0
        if self._before is not None:
            since, sample = await self._read_sample(since, wanted)
        read = sample + sum(await self._read_slices(self._newer_than(since), since))
        self._learn_from(read, wanted)
        if 2 * read >= wanted:
            self._slices += 1
        return read

    def _newer_than(self, since: datetime) -> list[_Stream]:
        return [one for one in self._unread if one.horizon > since]

    async def _read_sample(self, since: datetime, wanted: int) -> tuple[datetime, int]:
        """Read a slice of a few streams; returns since when all have what is wanted, about, and how much these have.

        The stream that has most stands for itself alone: an agent that has just settled a hundred tasks says nothing of
        the others. That a few have little says nothing either.
        """
        asked = self._newer_than(since)
        first = asked[:_SAMPLE]
        await self._read_slices(first, since)
        held = sorted(([at for entry in one.held if (at := entry.stored_at) >= since] for one in first), key=len)
        each = (len(asked) - 1) / max(1, len(first) - 1)
        weighed = [(at, each) for times in held[:-1] for at in times] + [(at, 1.0) for at in held[-1]]
        in_all, nearer = 0.0, since
        for at, weight in sorted(weighed, reverse=True):
            in_all, nearer = in_all + weight, at
            if in_all >= _ROOM * wanted:
                break
        else:
            return since, len(weighed)
        if self._span is not None:
            self._span -= nearer - since
        return nearer, sum(at >= nearer for at, _ in weighed)

    async def _read_slices(self, now: Sequence[_Stream], since: datetime) -> list[int]:
        """Read a slice of each of some streams; returns how many entries they had."""
        return await concurrently(now, lambda one: self._read_slice(one, since), at_once=_ASKED_AT_ONCE)

    async def _read_windows(self, now: Sequence[_Stream], count: int) -> int:
        """Read a window of each of some streams; returns how many entries they had."""
        if not now:
            return 0
        first = _LEAST_OF_MANY if count < len(self._streams) else max(_LEAST, -(-count // len(self._unread)))
        # What is read of one of them is held back until all those have been read that are as new. So the windows of
        # all of them together are to hold `count`, and not each round of a few.
        active = len(now) + sum(one.started for one in self._unread if one not in now)
        most = max(_LEAST, count // active)
        for one in now:
            one.count = min(most, GROWTH * one.count or first)
        return sum(await concurrently(now, self._read, at_once=_MOST_AT_ONCE))

    def read_of(self, part: Part) -> int | None:
        """Return how many entries a stream has from the last one on that was read in a window; None if none was."""
        return next((one.reader.later for one in self._streams if one.part is part and one.started), None)

    def let_go(self, stream: str) -> None:
        """Read no more of a stream."""
        self._unread = [one for one in self._unread if one.part.stream != stream]

    @property
    def held_back(self) -> int | None:
        """The position of the oldest entry that was read and is not passed on; None if there is none."""
        return min((one.held[-1].stored_at_us for one in self._streams if one.held), default=None)

    def _behind_the_slices(self) -> list[_Stream]:
        """Return the streams that have too many entries for a slice, and were not read to its end yet."""
        reached = max((one.horizon for one in self._unread if not one.started), default=None)
        return [one for one in self._unread if one.started and (reached is None or one.horizon > reached)]

    def _slice(self, count: int) -> datetime | None:
        """Return the time back to which entries are to be read one by one; None where windows are to be read.

        Of the newest page it is first the time from which on `count` streams have entries, and no other one has.
        """
        if self._slices <= 0 or len(self._unread) <= count:
            self._slices = 0
            return None
        self._slices -= 1
        since = self._start_of_slice(count)
        asked = self._newer_than(since)
        if not asked or not all(may_be_asked(self._bus, one.part) for one in asked):
            self._slices = 0
            return None
        return since

    def _start_of_slice(self, count: int) -> datetime:
        newest = self._unread[0].horizon
        if self._before is None and self._span is None:
            since = self._unread[count].horizon
            self._span = newest - since
            return since
        self._span = self._span or self._estimated(count)
        since = newest - self._span
        unknown = sum(one.horizon == newest for one in self._unread)
        if unknown + count < len(self._unread):  # so many have their newest entry there
            since = max(since, self._unread[unknown + count].horizon)
            self._span = newest - since
        return since

    def _estimated(self, count: int) -> timedelta:
        """Return in how much time the streams get about `count` entries, by what they hold; nothing if none tells."""
        rate = 0.0
        for one in self._unread:
            if one.part.info is not None:
                state = one.part.info.state
                span = parse_time(state.last_time) - parse_time(state.first_time)
                rate += state.messages / max(span, _MICROSECOND).total_seconds()
        return _bounded(_ROOM * count / rate) if rate else timedelta()

    def _learn_from(self, read: int, count: int) -> None:
        """Reckon how much time the next slice covers, from how many entries there were in this one."""
        if self._span:
            wider = min(_WIDEST, max(1 / _NARROWEST, _ROOM * count / max(read, 1)))
            self._span = _bounded(wider * self._span.total_seconds())

    async def _read_slice(self, one: _Stream, since: datetime) -> int:
        """Read what a stream has got since a time, if that is few entries; a window of it otherwise.

        Returns how many entries it has got since then.
        """
        live = self._before is None and one.top is None
        found = None if one.started else await read_between(self._bus, one.part, since, None if live else one.horizon)
        if found is None:
            one.count = max(_LEAST, one.count)
            read = await self._read(one)
            return min(read, sum(entry.stored_at >= since for entry in one.held))  # the window reaches further back
        self._one_was_read = True
        one.horizon, one.top = since, found.first
        if found.to_the_end:
            one.later = len(found.messages)
        elif one.later is not None:
            one.later += len(found.messages)
        one.held.extend(entry for entry in reversed(found.messages) if self._keep(entry))
        if one.part.info is not None and found.first <= one.part.info.state.first_seq:
            self._unread.remove(one)
        return len(found.messages)

    def _next(self) -> list[_Stream]:
        """Choose the streams with the newest horizons: some, and all that share the first one.

        Below a cursor many share it, and none of them can be passed before all were read.
        """
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
        ends = ends_of(one.part)
        if one.top is not None and ends is not None:
            await one.reader.start(one.top, ends, later=one.later)
            one.started = True
            return
        unchanged = self._before is not None and ends is not None and _newest_in(one.part) <= self._before
        await one.reader.start(self._before, ends, later=0 if unchanged else None)
        one.started = True


def _bounded(seconds: float) -> timedelta:
    """Return a span of time, which is not longer than the ledger can keep anything."""
    return min(timedelta(seconds=min(seconds, 10**9)), _LONGEST)


def _newest_in(part: Part) -> datetime:
    """The time from which on a part has no entry, as far as is known."""
    if part.info is None:
        return datetime.max.replace(tzinfo=UTC)
    return parse_time(part.info.state.last_time) + _MICROSECOND


def _has_older(part: Part, before: datetime) -> bool:
    """Whether a part may have an entry from before a time."""
    return part.info is None or parse_time(part.info.state.first_time) < before
