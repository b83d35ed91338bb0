"""Does what many callers ask for in the same moment once for all of them, begun after each of them has asked."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class SharedWork(Generic[_Result]):
    """Work by its key. Who asks while it is under way gets what the next one returns, with all who ask meanwhile.

    So no caller reads what was read before it asked, and a thousand callers cost two readings.
    """

    def __init__(self) -> None:
        self._begun: dict[Hashable, asyncio.Task[_Result]] = {}
        self._next: dict[Hashable, asyncio.Task[_Result]] = {}

    async def do(self, key: Hashable, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return what `work` returns, or that of another caller with the same key. A failure is that of all of them.

        A caller that is cancelled cancels nothing of what the others wait for.
        """
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._after(key, self._begun.get(key), work))
            task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    async def _after(
        self, key: Hashable, before: asyncio.Task[_Result] | None, work: Callable[[], Awaitable[_Result]]
    ) -> _Result:
        if before is not None:
            await asyncio.wait({before})
        mine = self._begun[key] = self._next.pop(key)
        try:
            return await work()
        finally:
            if self._begun[key] is mine:
                del self._begun[key]


def _retrieve(task: asyncio.Task[_Result]) -> None:
    """Take a failure also where every caller was cancelled: asyncio would report it."""
    if not task.cancelled():
        task.exception()
