"""Does several things at the same time: different ones in a group, or the same work for many items.

Of the two loops for that, one tells each result as it comes.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@asynccontextmanager
async def at_the_same_time() -> AsyncGenerator[asyncio.TaskGroup]:
    """Yield a group for tasks; at its end all of them have ended.

    The first failure cancels the rest and is raised as it is, not in an `ExceptionGroup`: most callers expect one
    error of ours.
    """
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def concurrently(
    items: Iterable[_Item], work: Callable[[_Item], Awaitable[_Result]], *, at_once: int
) -> list[_Result]:
    """Call `work` for each item, for at most `at_once` of them at the same time; return the results in order.

    Work for an item begins when that for an earlier one has ended, so that many items cost no more at a time than few.
    A failure is raised as by `at_the_same_time`. Work whose failure must not end the rest returns it.
    """
    wanted = list(items)
    if len(wanted) == 1:  # spares a task: most calls are for one
        return [await work(wanted[0])]
    results: dict[int, _Result] = {}
    left = iter(enumerate(wanted))

    async def lane() -> None:
        for number, item in left:
            results[number] = await work(item)

    async with at_the_same_time() as group:
        for _ in range(min(at_once, len(wanted))):
            group.create_task(lane())
    return [results[number] for number in range(len(wanted))]


async def in_order(
    items: Iterable[_Item] | AsyncIterable[_Item],
    work: Callable[[_Item], Coroutine[Any, Any, _Result]],
    *,
    at_once: int,
) -> AsyncGenerator[_Result]:
    """Call `work` for each item, and yield the results in the order of the items, each as soon as it is there.

    Items are taken as work for earlier ones ends and as results are taken: at most `at_once` are begun and not yielded.
    Close the generator, as `contextlib.aclosing` does: work that is under way is cancelled then, and waited for.

    A failure of `work`, or of `items`, is raised in its place, and nothing is begun after it.
    """
    begun = asyncio.Queue[asyncio.Task[_Result] | None]()
    places = asyncio.Semaphore(at_once)

    async def begin() -> None:
        try:
            await places.acquire()
            async for item in _each(items):
                begun.put_nowait(asyncio.create_task(work(item)))
                await places.acquire()
        finally:
            begun.put_nowait(None)

    beginning = asyncio.create_task(begin())
    under_way: asyncio.Task[_Result] | None = None
    try:
        while (under_way := await begun.get()) is not None:
            if not under_way.done():
                await asyncio.wait((under_way,))  # cancelling this cancels nothing of what it waits for
            yield under_way.result()
            places.release()
        await beginning
    finally:
        beginning.cancel()
        left = [task for task in (under_way, *_drained(begun)) if task is not None]
        for task in left:
            task.cancel()
        await asyncio.wait((beginning, *left))


async def _each(items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncGenerator[_Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _drained(queue: asyncio.Queue[_Item]) -> list[_Item]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def until_one_ends(*works: Coroutine[Any, Any, Any]) -> None:
    """Run coroutines at the same time until one of them ends, and cancel the others; raises what one has raised."""
    running = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in running:
            task.cancel()
        found = await asyncio.gather(*running, return_exceptions=True)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
