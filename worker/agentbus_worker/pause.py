"""Pauses a worker that cannot start its command, or may not claim: what is wrong with one must not stop an agent."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.presence import MAX_REASON_CHARS, PausedWorker

log = logging.getLogger("agentbus.worker")

NOT_CLAIMED: Final = "not_claimed"
"""The code of a pause because the bus refuses each claim. That of the other pause is the code of its setbacks."""
_FIRST_S: Final = 1.0
"""An updater that replaces a program takes about as long."""
_LONGEST_S: Final = 60.0
"""How late a worker notices that its machine is well again; a task that is tried in vain costs little."""
_LOOK_S: Final = 5.0
"""How late it notices that the machine has slept: timers of the event loop may stand still meanwhile."""
_MOST_REMEMBERED: Final = 1000
_FOLDERS: Final = re.compile(r"/[^'\":]*/")
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that cannot be set, and that goes on while the machine sleeps: on macOS `CLOCK_MONOTONIC` does."""


class Pause:
    """Whether a worker takes tasks. After each pause it tries one task; what becomes of that ends or doubles the pause.

    `on_change` is called whenever `shown` has changed.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._on_begin: list[Callable[[], None]] = []
        self._fault: tuple[str, str] | None = None  # its code and its reason
        self._since = ""
        self._pause_s = _FIRST_S
        self._until = 0.0
        self._probing = False
        self._told = asyncio.Event()
        self._starts = 0
        self._set_back: dict[TaskKey, int] = {}

    @property
    def shown(self) -> PausedWorker | None:
        """The pause, as others see it, with its end by the clock of this machine as it is now; None without a pause.

        It names no folder: all readers of the registry see it.
        """
        if self._fault is None:
            return None
        code, reason = self._fault[0], _FOLDERS.sub("…/", self._fault[1])
        until = datetime.now(UTC) + timedelta(seconds=max(0.0, self._until - _now()))
        return PausedWorker(
            code=code, reason=reason[:MAX_REASON_CHARS], until=until.isoformat(), since=self._since or None
        )

    def on_begin(self, interrupt: Callable[[], None]) -> None:
        """Call `interrupt` whenever a pause begins: nothing more may be taken."""
        self._on_begin.append(interrupt)

    def begin(self, code: str, reason: str) -> None:
        """Pause: a command could not be started, or a task not claimed. During a pause that changes its reason only."""
        running = self._fault is not None and not self._probing
        if self._fault is None:
            self._pause_s, self._since = _FIRST_S, now()
            log.warning("paused (%s): %s; trying one task after %g s, then less often, up to every %g s",
                        code, reason, _FIRST_S, _LONGEST_S)  # fmt: skip
        self._fault = code, reason
        if running:
            return
        if self._probing:
            self._pause_s = min(2 * self._pause_s, _LONGEST_S)
            self._probing = False
        self._until = _now() + self._pause_s
        self._on_change()
        for interrupt in self._on_begin:
            interrupt()

    def started(self) -> None:
        """Note that a command has started. If it is that of the task that was tried, the pause is over."""
        self._starts += 1
        if self._probing:
            self._fault, self._probing = None, False
            log.info("no longer paused: a command has started")
            self._told.set()
            self._on_change()

    def others_started_since(self, key: TaskKey) -> bool:
        """Note that the command of a task could not be started; returns whether others were since the last time."""
        before = self._set_back.pop(key, None)
        self._set_back[key] = self._starts
        if len(self._set_back) > _MOST_REMEMBERED:
            del self._set_back[next(iter(self._set_back))]
        return before is not None and self._starts > before

    async def over(self) -> bool:
        """Wait until a task may be taken; returns whether it is the one that is tried, so that no second one may be."""
        while self._fault is not None and (left_s := self._until - _now()) > 0:  # noqa: ASYNC110  # a clock has no event
            await asyncio.sleep(min(left_s, _LOOK_S))
        self._probing = self._fault is not None
        self._told.clear()
        return self._probing

    async def told_by(self, probe: asyncio.Task[None]) -> None:
        """Wait until the command of the task that is tried has started, or the task is done without that."""
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait({probe, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()


def _now() -> float:
    return time.clock_gettime(_CLOCK)
