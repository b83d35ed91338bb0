"""Work for many items: bounded, in order, and with the first failure as it is."""

import asyncio

import pytest

from agentbus.concurrently import concurrently
from agentbus.errors import BusUnavailableError
from support.harness import BOUND_S


async def test_results_are_in_the_order_of_the_items_and_no_more_than_the_bound_run_at_once():
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - number):  # the later an item, the sooner it is done
            await asyncio.sleep(0)
        running -= 1
        return number * number

    assert await concurrently(range(10), work, at_once=3) == [number * number for number in range(10)]
    assert most == 3


async def test_ten_thousand_items_are_as_few_tasks_as_run_at_once():
    most = 0

    async def work(_: int) -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        await asyncio.sleep(0)

    await concurrently(range(10_000), work, at_once=8)
    assert most <= 8 + len(asyncio.all_tasks())


async def test_no_items_have_no_results():
    assert await concurrently((), asyncio.sleep, at_once=1) == []


async def test_the_first_failure_is_raised_as_it_is_and_cancels_the_rest():
    started, cancelled = set[int](), set[int]()

    async def work(number: int) -> None:
        if number == 1:
            raise BusUnavailableError("away")
        started.add(number)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.add(number)
            raise

    async with asyncio.timeout(BOUND_S):
        with pytest.raises(BusUnavailableError, match="away"):
            await concurrently([0, 1, 2], work, at_once=2)
    assert 0 in started
    assert cancelled == started


async def test_cancelling_the_caller_cancels_the_work():
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work(_: int) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = asyncio.create_task(concurrently([0], work, at_once=1))
    async with asyncio.timeout(BOUND_S):
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cancelled.is_set()
