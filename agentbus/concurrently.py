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

    Work for an item begins when that for an earlier one has ended, so that many items cost no more at a time than few.

    The first failure cancels the rest and is raised as it is, not in an `ExceptionGroup`: most callers expect one
    error of ours. Work whose failure must not end the rest returns it in place of raising it.
    """
    wanted = list(items)
    if len(wanted) == 1:  # spares a task: most calls are for one
        return [await work(wanted[0])]
    results: dict[int, _Result] = {}
    left = iter(enumerate(wanted))

    async def lane() -> None:
        for number, item in left:
            results[number] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(wanted))):
                group.create_task(lane())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [results[number] for number in range(len(wanted))]
