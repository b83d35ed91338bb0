"""Pauses a worker: its machine or its account cannot do any task now, it may not claim, or an operator wants it."""

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from agentbus.protocol.parties.control_entry import Asked, OperatorPause
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.presence import MAX_REASON_CHARS, PausedWorker

log = logging.getLogger("agentbus.worker")

NOT_CLAIMED: Final = "not_claimed"
"""The code of a pause because the bus refuses each claim. That of the other pauses is the code of their setbacks."""
BY_HAND: Final = "operator"
"""The code of a pause that an operator wants."""
Cause = Literal["machine", "account"]
"""What is at fault: the machine, which cannot start the command, or may not claim; or the account of the agent, whose
model's server refuses it, whatever it is asked."""


class _Length(NamedTuple):
    first_s: float
    longest_s: float


_LENGTHS: Final[dict[Cause, _Length]] = {
    # An updater that replaces a program takes about a second. A minute is how late a worker notices that its machine
    # is well again; a task that is tried in vain costs little.
    "machine": _Length(1.0, 60.0),
    # A person has to do something, and each try costs the start of an agent.
    "account": _Length(30.0, 1800.0),
}
_LONGEST_NAMED_S: Final = 6 * 3600.0
"""The longest time that a server may name. It may be wrong, and what it waits for can come earlier."""
_LOOK_S: Final = 5.0
"""How late it notices that the machine has slept: timers of the event loop may stand still meanwhile."""
_LONGEST_APART_S: Final = 300.0
"""How long at most a task is kept from all workers so that another one is tried before it."""
_APART_S: Final = 2.0
"""How much later than the next try: so that another task is taken first, if there is one."""
_MOST_REMEMBERED: Final = 1000
_FOLDERS: Final = re.compile(r"/[^'\":]*/")
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that cannot be set, and that goes on while the machine sleeps: on macOS `CLOCK_MONOTONIC` does."""


class Trial:
    """A run of a command: what it achieves may end the pause, if it is the one that is tried after it."""

    def __init__(self, pause: "Pause") -> None:
        self._pause = pause
        self._has_worked = False

    def worked(self) -> None:
        """Note that the agent got an answer of its model, or ended for a reason of its own; more than once as well."""
        if not self._has_worked:
            self._has_worked = True
            self._pause.worked(self)


class Pause:
    """Whether a worker takes tasks. After each pause it tries one task; what becomes of that ends or doubles the pause.

    `on_change` is called whenever `shown` has changed.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._on_begin: list[Callable[[], None]] = []
        self._fault: tuple[str, str] | None = None  # its code and its reason
        self._cause: Cause = "machine"
        self._since = ""
        self._pause_s = 0.0
        self._until = 0.0
        self._probing = False
        self._trial: Trial | None = None
        self._told = asyncio.Event()
        self._woken = asyncio.Event()
        self._by_hand: OperatorPause | None = None
        self._resumed_at: str | None = None
        self._successes: dict[Cause, int] = {"machine": 0, "account": 0}
        self._set_back: dict[tuple[TaskKey, Cause], int] = {}

    @property
    def shown(self) -> PausedWorker | None:
        """The pause, as others see it, with its end by the clock of this machine as it is now; None without a pause.

        It names no folder: all readers of the registry see it.
        """
        if (by_hand := self._by_hand) is not None:
            reason = f"by {by_hand.by}" + (f": {by_hand.reason}" if by_hand.reason else "")
            return PausedWorker(code=BY_HAND, reason=reason[:MAX_REASON_CHARS], until="", since=by_hand.since)
        if self._fault is None:
            return None
        code, reason = self._fault[0], _FOLDERS.sub("…/", self._fault[1])
        until = datetime.now(UTC) + timedelta(seconds=max(0.0, self._until - _now()))
        return PausedWorker(
            code=code, reason=reason[:MAX_REASON_CHARS], until=until.isoformat(), since=self._since or None
        )

    @property
    def apart_s(self) -> float:
        """For how long to keep a task that went back from here before, so that another one is tried first."""
        return min(max(0.0, self._until - _now()) + _APART_S, _LONGEST_APART_S)

    def on_begin(self, interrupt: Callable[[], None]) -> None:
        """Call `interrupt` whenever a pause begins: nothing more may be taken."""
        self._on_begin.append(interrupt)

    def begin(self, code: str, reason: str, *, cause: Cause = "machine", after_s: float | None = None) -> None:
        """Pause, because a task could not be done for no fault of its own. In a pause, that changes its reason only.

        Args:
            after_s: when the model's server answers again, if it said so.
        """
        running = self._fault is not None and not self._probing
        first_s, longest_s = _LENGTHS[cause]
        again = self._fault is not None and cause == self._cause
        if self._fault is None:
            self._since = now()
        if not running:
            self._pause_s = min(2 * self._pause_s, longest_s) if again and self._probing else first_s
            self._cause = cause
        length_s = self._pause_s if after_s is None else min(max(after_s, first_s), _LONGEST_NAMED_S)
        if self._fault is None:
            log.warning("paused (%s): %s; trying one task after %g s, then less often, up to every %g s",
                        code, reason, length_s, longest_s)  # fmt: skip
        self._fault = code, reason
        if running:
            return
        self._probing, self._trial = False, None
        self._until = _now() + length_s
        self._begin()

    def ask(self, asked: Asked) -> None:
        """Do what an operator asks for, as it is read again and again."""
        before, self._by_hand = self._by_hand, asked.paused
        at = asked.resumed.since if asked.resumed is not None else None
        resumed, self._resumed_at = at is not None and at != self._resumed_at, at
        if self._by_hand is not None and before is None:
            log.warning("%s", self._by_hand.in_words)
            self._begin()
        elif self._by_hand != before:
            self._on_change()
        if asked.paused is None and (before is not None or resumed):
            if resumed and self._fault is not None:
                self._until = _now()
            if before is not None:
                log.info("no longer paused by hand")
            self._woken.set()

    def _begin(self) -> None:
        self._on_change()
        for interrupt in self._on_begin:
            interrupt()

    def started(self) -> Trial:
        """Note that a command has started. If it is that of the task that was tried, a fault of the machine is over."""
        self._successes["machine"] += 1
        trial = Trial(self)
        if self._probing and self._trial is None:
            self._trial = trial
            if self._cause == "machine":
                self._over("a command has started")
        return trial

    def worked(self, trial: Trial) -> None:
        """Note that the agent of a run works. If it is that of the task that was tried, the pause is over."""
        self._successes["account"] += 1
        if self._probing and trial is self._trial:
            self._over("the agent works")

    def _over(self, why: str) -> None:
        self._fault, self._probing, self._trial = None, False, None
        log.info("no longer paused: %s", why)
        self._told.set()
        self._on_change()

    def others_succeeded_since(self, key: TaskKey, cause: Cause) -> bool:
        """Note that a task could not be done; returns whether others could since it could not the last time."""
        before, count = self._set_back.pop((key, cause), None), self._successes[cause]
        self._set_back[key, cause] = count
        if len(self._set_back) > _MOST_REMEMBERED:
            del self._set_back[next(iter(self._set_back))]
        return before is not None and count > before

    async def over(self) -> bool:
        """Wait until a task may be taken; returns whether it is the one that is tried, so that no second one may be."""
        while (left_s := self._left_s) > 0:
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    await self._woken.wait()
        self._probing, self._trial = self._fault is not None, None
        self._told.clear()
        return self._probing

    @property
    def _left_s(self) -> float:
        if self._by_hand is not None:
            return math.inf
        return self._until - _now() if self._fault is not None else 0.0

    async def told_by(self, probe: asyncio.Task[None]) -> None:
        """Wait until it is known how the task fares that is tried, or it is done without that."""
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait({probe, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()


def _now() -> float:
    return time.clock_gettime(_CLOCK)
