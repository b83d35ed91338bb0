"""Finishes what was begun: steps that leave something half done where they are cut in between."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

_CALLER_S: Final = 1.0
"""How long a cancelled caller waits for the end of its steps: a healthy bus takes milliseconds for each."""
_AT_THE_END_S: Final = 1.5
"""How long the end of a connection waits for its steps: a person who ends a process waits for this."""

log = logging.getLogger("agentbus")


class BegunSteps:
    """The steps that are under way over one connection, which waits for them before it ends."""

    def __init__(self) -> None:
        self._callers: dict[asyncio.Task[Any], asyncio.Task[Any] | None] = {}
        self._given_up: set[asyncio.Task[Any]] = set()
        self._left: set[asyncio.Task[Any]] = set()

    async def finish(self, steps: Coroutine[Any, Any, _T]) -> _T:
        """Run `steps` to their end, whatever becomes of the caller, and return what they return.

        A caller that is cancelled waits for that end for a second at most, and not at all once it is cancelled a
        second time. Then the steps go on without it, and a failure of theirs is logged. Until they have done something
        that they cannot take back, steps may look at `given_up` and end.
        """
        running = asyncio.create_task(steps)
        self._callers[running] = asyncio.current_task()
        running.add_done_callback(self._forget)
        ended = asyncio.get_running_loop().create_future()  # cancelling it cancels nothing of what it waits for
        running.add_done_callback(lambda _: ended.done() or ended.set_result(None))
        try:
            await ended
        except asyncio.CancelledError:
            self._given_up.add(running)
            running.add_done_callback(_report)
            await asyncio.wait((running,), timeout=_CALLER_S)
            raise
        return running.result()

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Have the connection wait for a task that only tidies up, and reports its own failure.

        It is no step: a signal need not wait for it, so `any` does not count it.
        """
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    @property
    def given_up(self) -> bool:
        """Whether the caller of the present steps, or of those that they are a part of, was cancelled."""
        task = asyncio.current_task()
        while task is not None and task not in self._given_up:
            task = self._callers.get(task)
        return task is not None

    @property
    def any(self) -> bool:
        """Whether steps are under way."""
        return bool(self._callers)

    async def wait(self) -> None:
        """Wait for the end of all steps, and of what was left, for one and a half seconds at most."""
        if under_way := (*self._callers, *self._left):
            await asyncio.wait(under_way, timeout=_AT_THE_END_S)

    def _forget(self, ended: asyncio.Task[Any]) -> None:
        self._callers.pop(ended, None)
        self._given_up.discard(ended)


def _report(ended: asyncio.Task[Any]) -> None:
    if not ended.cancelled() and (error := ended.exception()) is not None:
        log.warning("what a cancelled call had begun could not be finished: %s", error)
