"""Listing tasks: the newest first, by the last change of their ledger entries.

The ledger keeps one message for each task, and every change moves it to the end of its stream. So its position orders
tasks by their last change, and a cursor is a position below which to continue: see `LedgerReader`. The headers of an
entry hold its state and, once it is settled, what a list shows of it; the others are read whole, as they have no
result.
"""

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.backwards import Read, Window
from agentbus.bus.reading.ledger_reader import LedgerReader
from agentbus.bus.reading.newest import Whole
from agentbus.bus.retry_until import deadline_after, left_until
from agentbus.concurrently import concurrently
from agentbus.errors import CorruptEntryError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.headers import GROUP
from agentbus.protocol.ledger_entry import Record, read_entry
from agentbus.protocol.listed.summary import read_summary
from agentbus.tasks.listing.wanted import Wanted
from agentbus.tasks.status import TaskStatus

MAX_LISTED: Final = 200
SEARCH_S: Final = 2.0
"""How long one call searches by default: a person waits for it."""
_CATCH_UP_S: Final = 1.0
"""How much longer a search goes on to show what it has found: of several streams, the others may lie behind."""
_SCAN_FIRST: Final = 500
"""How many entries a search for a state looks at first, at least."""
_READ_STEP: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """How far a search for tasks came.

    Attributes:
        cursor: where the next call continues, towards older tasks; None if there are none.
        partial: whether the search stopped early, because its time was over.
        unreadable: for each entry that cannot be shown, why.
        reached: of a search that stopped early: when the oldest entry changed last that it has looked at.
        left: of such a search: how many entries it has not looked at, at most.
    """

    cursor: int | None = None
    partial: bool = False
    unreadable: list[str] = field(default_factory=list[str])
    reached: datetime | None = None
    left: int | None = None


@dataclass(frozen=True, slots=True)
class TaskList(Searched):
    """Tasks by their last change, the newest first. How far the search came: see `Searched`."""

    tasks: list[TaskStatus]


class Search:
    """Gives tasks to `take`, the last changed first, until there are as many as wanted, or the time is over.

    Args:
        limit: how many; None for all.
        since: an older change ends the search.
    """

    def __init__(
        self,
        bus: Bus,
        wanted: Wanted,
        take: Callable[[TaskStatus], None],
        *,
        limit: int | None,
        search_s: float,
        since: datetime | None = None,
    ) -> None:
        self._bus = bus
        self._reader = LedgerReader(bus, ())
        self._wanted = wanted
        self._take = take
        self._left = math.inf if limit is None else limit
        self._since = since
        self._deadline = deadline_after(search_s)
        self._found_down_to: int | None = None  # what was found when the time was over
        self._oldest: int | None = None  # the first entry so far that is of a task
        self._end = 0  # the entry that was examined last
        self._in_vain = 0  # how many entries were read that are not shown
        self._unreadable = list[str]()

    async def backwards(self, count: int, before: int | None) -> TaskList:
        """Search from the newest change on, or below a position; the first look is at `count` entries, at least.

        The answer has no tasks: they were taken.
        """
        self._reader = await LedgerReader.of(self._bus, self._wanted.subject)
        async with aclosing(self._reader.windows(keep=self._keep, count=count, before=before)) as windows:
            return await self._run(windows)

    def _keep(self, entry: Read) -> bool:
        if self._since is not None and entry.stored_at < self._since:
            return False
        position = self._reader.position(entry)
        if (self._oldest is None or position < self._oldest) and subjects.parse_state(entry.subject) is not None:
            self._oldest = position
        return self._wanted.may_be(entry)

    async def _run(self, windows: AsyncGenerator[Window]) -> TaskList:
        async for window in windows:
            whole = await self._show(window.messages)
            if self._full and self._has_older:
                return self._found(self._end)
            if (window.last or self._is_past(window)) and (whole or self._full):
                break
            if left_until(self._deadline) <= 0:
                if self._full:
                    return self._found(self._end)  # there may be older ones
                if not self._goes_on_after(window, whole=whole):
                    return await self._stopped(window, whole=whole)
        return self._found(None)

    def _goes_on_after(self, window: Window, *, whole: bool) -> bool:
        """Whether the search goes on though its time is over.

        A page does. A search does for a moment if it holds back what it had found by then.
        """
        if not self._wanted.is_search and not self._is_unbounded:
            return True
        if not whole or self._left == math.inf or left_until(self._deadline + _CATCH_UP_S) <= 0:
            return False
        if self._found_down_to is None:
            self._found_down_to = self._reader.held_back or window.bottom
        return window.bottom > self._found_down_to

    def _is_past(self, window: Window) -> bool:
        return self._since is not None and window.oldest is not None and window.oldest < self._since

    @property
    def _has_older(self) -> bool:
        return self._oldest is not None and self._oldest < self._end

    @property
    def _full(self) -> bool:
        return self._left <= 0

    @property
    def _is_unbounded(self) -> bool:
        """Whether entries are read in vain. A full page is due however long it takes, from however many streams."""
        return self._in_vain >= _READ_STEP or self._left == math.inf

    def _found(self, cursor: int | None) -> TaskList:
        return TaskList([], cursor=cursor, unreadable=self._unreadable)

    async def _stopped(self, window: Window, *, whole: bool) -> TaskList:
        """Say how far the search came."""
        cursor, reached = window.bottom, window.oldest
        if not whole:
            cursor = self._end
            reached = next((one.stored_at for one in window.messages if self._reader.position(one) == cursor), reached)
        left = await self._reader.count_unread(cursor)
        return TaskList([], cursor=cursor, partial=True, unreadable=self._unreadable, reached=reached, left=left)

    async def _show(self, entries: Sequence[Read]) -> bool:
        """Add the tasks that are wanted; return whether all entries were examined, as far as time and limit allow."""
        for first in range(0, len(entries), _READ_STEP):
            if self._full or (first and self._is_unbounded and left_until(self._deadline) <= 0):
                return False
            batch = entries[first : first + _READ_STEP]
            for entry, found in zip(batch, await read_listed(self._bus, batch, self._wanted), strict=True):
                position = self._reader.position(entry)
                if self._full and position != self._end:  # a cursor between two of one position would lose the second
                    return False
                # Of several streams, what changes meanwhile may come late, and be newer than the last one.
                self._end = min(position, self._end or position)
                self._add(found)
        return True

    def _add(self, found: TaskStatus | str | None) -> None:
        if isinstance(found, str):
            self._unreadable.append(found)
        if isinstance(found, TaskStatus) and self._wanted.is_met_by(found):
            self._take(found)
            self._left -= 1
        else:
            self._in_vain += 1


async def list_tasks(
    bus: Bus,
    wanted: Wanted,
    *,
    limit: int = 20,
    cursor: int | None = None,
    search_s: float = SEARCH_S,
    since: datetime | None = None,
) -> TaskList:
    """List the newest tasks by last change.

    The work is bounded by time: see `TaskList.partial`. A task that changes between two calls moves to the front, so a
    call that continues from a cursor leaves it out.

    Args:
        limit: 1 to 200.
        cursor: the `cursor` of an earlier list of the same tasks.
        search_s: how long to search, about; the entries that are being looked at then are looked at to their end.
        since: only tasks that changed last at this time or later.

    Raises:
        MessageError: `limit` is out of bounds, or `cursor` is that of another bus.
        SetupMissingError: there is no ledger on this bus.
        PermissionDeniedError: this user may not read it.
    """
    if not 1 <= limit <= MAX_LISTED:
        raise MessageError(f"limit must be from 1 to {MAX_LISTED}, not {limit}")
    tasks: list[TaskStatus] = []
    search = Search(bus, wanted, tasks.append, limit=limit, search_s=search_s, since=since)
    found = await search.backwards(max(limit + 1, _SCAN_FIRST) if wanted.is_search else limit + 1, cursor)
    return replace(found, tasks=tasks)


async def read_listed(bus: Bus, entries: Sequence[Read], wanted: Wanted) -> list[TaskStatus | str | None]:
    """Read entries as a list shows them: for each a task, or why it cannot be read, or None if it was removed."""
    summaries = [None if wanted.with_results else _summed_up(entry, wanted) for entry in entries]

    async def one(entry: Read) -> TaskStatus | str | None:
        whole = isinstance(entry, Whole)
        message = entry.stored if whole else await bus.last_message(subjects.STATE_STREAM, entry.subject)
        try:
            record = read_entry(message) if message is not None else None
        except CorruptEntryError as error:
            return str(error)
        return TaskStatus(record, wanted.asker) if isinstance(record, Record) else None

    rest = [entry for entry, found in zip(entries, summaries, strict=True) if found is None]
    read = iter(await concurrently(rest, one, at_once=_READ_STEP) if rest else ())
    return [next(read) if found is None else TaskStatus(found, wanted.asker) for found in summaries]


def _summed_up(entry: Read, wanted: Wanted) -> Record | None:
    """Return what the headers of an entry say, if that is enough.

    Those of a party of an earlier version name no group, and no first words to search.
    """
    found = read_summary(entry.stored)
    older = found is not None and GROUP not in entry.headers
    return None if older and (wanted.group is not None or wanted.text is not None) else found


async def all_listed(bus: Bus, wanted: Wanted, *, since: datetime | None = None) -> TaskList:
    """List all tasks that are wanted, however long that takes.

    Raises:
        SetupMissingError, PermissionDeniedError: see `list_tasks`.
    """
    tasks: list[TaskStatus] = []
    unreadable: list[str] = []
    cursor = None
    while True:
        found = await Search(bus, wanted, tasks.append, limit=None, search_s=SEARCH_S, since=since).backwards(
            _SCAN_FIRST, cursor
        )
        unreadable += found.unreadable
        if not found.partial:
            return replace(found, tasks=tasks, unreadable=unreadable)
        cursor = found.cursor
