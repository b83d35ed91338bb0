"""Work that many callers share: few readings, none of them begun before its callers have asked."""

import asyncio

import pytest

from agentbus.errors import BusUnavailableError
from agentbus.shared_work import SharedWork


class _Work:
    """Work that ends when it is told to; it returns how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.started = asyncio.Event()
        self.ready = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        self.started.set()
        mine = self.begun
        await self.ready.wait()
        return mine


async def test_callers_of_one_moment_share_one_reading_and_those_who_come_later_the_next_one():
    shared, work = SharedWork[int](), _Work()
    first = [asyncio.create_task(shared.do("a", work)) for _ in range(3)]
    await work.started.wait()
    later = [asyncio.create_task(shared.do("a", work)) for _ in range(100)]
    other = asyncio.create_task(shared.do("b", _Work().__call__))
    await asyncio.sleep(0)
    assert work.begun == 1, "the next one waits for the first"
    work.ready.set()
    assert await asyncio.gather(*first, *later) == [1] * 3 + [2] * 100
    assert not other.done(), "another key has work of its own"
    other.cancel()
    assert await shared.do("a", work) == 3, "nothing is kept"


async def test_a_caller_that_is_cancelled_leaves_the_work_to_the_others():
    shared, work = SharedWork[int](), _Work()
    one, other = (asyncio.create_task(shared.do("a", work)) for _ in range(2))
    await work.started.wait()
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    work.ready.set()
    assert await other == 1


async def test_a_failure_is_that_of_all_who_share_it_and_the_next_one_tries_again():
    shared, times = SharedWork[int](), 0

    async def work() -> int:
        nonlocal times
        times += 1
        await asyncio.sleep(0)
        if times == 1:
            raise BusUnavailableError("away")
        return times

    outcomes = await asyncio.gather(*(shared.do("a", work) for _ in range(2)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [BusUnavailableError] * 2
    assert await shared.do("a", work) == 2
