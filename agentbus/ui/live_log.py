"""Follows what the runs of a task do, once for all pages that show it, and keeps the end of it, bounded."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, asynccontextmanager
from itertools import accumulate, takewhile
from typing import Final

from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, BusUnavailableError
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.progress.events import RunEvent
from agentbus.ui.rows import Row, known
from agentbus.ui.shown_text import block, line

KEPT_LINES: Final = 400
"""Of one task: as many as a page shows."""
_EVENT_CHARS: Final = 1_000
_PART_BYTES: Final = 4_000
"""Of what a reader is given at a time."""
_BEHIND_BYTES: Final = 60_000
"""Who is further behind than this is given the end, and told how much is missing: what runs is watched as it runs."""
_CATCH_UP_BYTES: Final = 8_000
_AGAIN_S: Final = 1.0


class LiveLogs:
    """The logs that pages look at now, by the names of their tasks."""

    def __init__(self) -> None:
        self._followed: dict[str, _Followed] = {}

    @asynccontextmanager
    async def reader(self, bus: Coordinator, name: str) -> AsyncGenerator["LogReader"]:
        """Follow the log of a task for the length of the block."""
        followed = self._followed.get(name)
        if followed is None:
            followed = self._followed[name] = _Followed(bus, name)
        followed.readers += 1
        try:
            yield LogReader(followed)
        finally:
            followed.readers -= 1
            if not followed.readers:
                self._followed.pop(name, None)
                await followed.end()


class _Followed:
    """The log of one task."""

    def __init__(self, bus: Coordinator, name: str) -> None:
        self.readers = 0
        self.count = 0
        self.ended = False
        self.lines: deque[Row] = deque(maxlen=KEPT_LINES)
        self.changed = asyncio.Event()
        self._work = asyncio.ensure_future(self._follow(bus, name))

    async def end(self) -> None:
        self._work.cancel()
        await asyncio.wait({self._work})

    def add(self, row: Row) -> None:
        self.lines.append(row)
        self.count += 1
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def _follow(self, bus: Coordinator, name: str) -> None:
        while not self.ended:
            try:
                async with aclosing(bus.task(name).events()) as events:
                    self.lines.clear()  # begun again, it tells what is kept again
                    self.count = 0
                    async for event in events:
                        self.add(event_row(event))
                self.ended = True
            except BusUnavailableError:
                await asyncio.sleep(_AGAIN_S)
            except AgentBusError as error:
                self.add({"kind": "notice", "text": str(error)})
                self.ended = True
        self._tell()


class LogReader:
    """One who reads a log."""

    def __init__(self, followed: _Followed) -> None:
        self._followed = followed
        self._seen = 0
        self._told_end = False

    async def next(self) -> dict[str, Json]:
        """Wait for lines, or for the end, and return those that this reader has not seen, with how many it missed."""
        log = self._followed
        while log.count == self._seen and not (log.ended and not self._told_end):
            await log.changed.wait()
        if log.count < self._seen:  # it was begun again
            self._seen = 0
        again, pending = self._seen == 0, [*log.lines][max(0, len(log.lines) - (log.count - self._seen)) :]
        sizes = [len(encode(row)) for row in pending]
        first = 0 if sum(sizes) <= _BEHIND_BYTES else len(pending) - _fitting(reversed(sizes), _CATCH_UP_BYTES)
        last = min(len(pending), first + _fitting(sizes[first:], _PART_BYTES))
        missed = log.count - self._seen - len(pending) + first
        self._seen = log.count - len(pending) + last
        self._told_end = ended = log.ended and self._seen == log.count
        lines: list[Json] = [*pending[first:last]]
        return known(lines=lines, missed=missed or None, again=again or None, ended=ended or None)


def _fitting(sizes: Iterable[int], most: int) -> int:
    """Return how many of some sizes fit, at least one."""
    found = takewhile(lambda total: total <= most, accumulate(sizes))
    return max(1, sum(1 for _ in found))


def event_row(event: RunEvent) -> Row:
    """Describe an event of a run for the page."""
    text = block(event.in_words if event.kind in ("start", "usage") else event.text, _EVENT_CHARS)
    return known(
        kind=event.kind,
        t=round(event.elapsed_s, 1),
        at=event.at.isoformat() if event.at else None,
        attempt=event.attempt or None,
        name=line(event.name, 100) if event.name else None,
        text=f"{text['text']}…" if "chars" in text else text["text"],
        ok=event.ok,
        stderr=True if event.on_stderr else None,
    )
