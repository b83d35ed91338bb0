"""Timers of which hardly any comes to its time: one timer of the event loop for all of them.

Each task has some that are cancelled within milliseconds: of its lease, of its start, of its wait for a slot. In the
event loop each costs as much as a write to the bus, and it stays in the heap, in the way of all others, until its time.
"""

import asyncio
from collections.abc import Callable


class Timer:
    """A call that is to come; see `Timers.call_later`."""

    __slots__ = ("_among", "call", "due")

    def __init__(self, among: set["Timer"], due: float, call: Callable[[], object]) -> None:
        self._among = among
        self.due = due
        self.call = call
        among.add(self)

    def cancel(self) -> None:
        """Have it not called; nothing if it was."""
        self._among.discard(self)


class Timers:
    """The timers of one kind, which all have about the same delay."""

    def __init__(self) -> None:
        self._open: set[Timer] = set()
        self._handle: asyncio.TimerHandle | None = None

    def call_later(self, delay_s: float, call: Callable[[], object]) -> Timer:
        """Have something called after a time, which must not raise."""
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if self._handle is None or self._handle.when() > due:
            self._wait(loop, due)
        return Timer(self._open, due, call)

    def _wait(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = loop.call_at(due, self._call_due, loop)

    def _call_due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = None
        now = loop.time()
        for timer in sorted((timer for timer in self._open if timer.due <= now), key=lambda timer: timer.due):
            if timer in self._open:  # not cancelled by one before it
                self._open.remove(timer)
                timer.call()
        if self._open:
            self._wait(loop, min(timer.due for timer in self._open))
