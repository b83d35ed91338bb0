"""Does the same work for many items at a time: the one loop for that."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def concurrently(
    items: Iterable[_Item], work: Callable[[_Item], Awaitable[_Result]], *, at_once: int
) -> list[_Result]:
    """Call `work` for each item, for at most `at_once` of them at the same time; return the results in order.

    The first failure cancels the rest and is raised as it is, not in an `ExceptionGroup`: most callers expect one
    error of ours. Work whose failure must not end the rest returns it in place of raising it.
    """
    slots = asyncio.Semaphore(at_once)

    async def one(item: _Item) -> _Result:
        async with slots:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in running]
