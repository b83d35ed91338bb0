"""Attempts are repeated until their deadline, at least once, and the last one knows that it is."""

import asyncio
import itertools
import math

import pytest

from agentbus.bus.retry_until import deadline_after, retry_until


async def test_an_attempt_is_made_even_if_the_deadline_has_passed_already() -> None:
    lasts = [attempt.last async for attempt in retry_until(deadline_after(-1), pause_s=60)]
    assert lasts == [True]


async def test_attempts_follow_each_other_after_a_pause_until_the_deadline_has_passed() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    starts = [loop.time() - started async for _ in retry_until(deadline_after(0.05), pause_s=0.02)]
    assert len(starts) >= 2
    assert all(later - earlier >= 0.019 for earlier, later in itertools.pairwise(starts))
    assert loop.time() - started >= 0.05


async def test_the_loop_ends_with_the_attempt_that_succeeds() -> None:
    attempts = 0
    async for attempt in retry_until(math.inf, pause_s=0):
        assert not attempt.last
        attempts += 1
        if attempts == 3:
            break
    assert attempts == 3


async def test_the_last_attempt_can_raise_its_own_error() -> None:
    async def ask() -> None:
        async for attempt in retry_until(deadline_after(0.02), pause_s=0.005):
            try:
                raise ConnectionError
            except ConnectionError:
                if attempt.last:
                    raise

    with pytest.raises(ConnectionError):
        await ask()


async def test_an_attempt_that_was_said_not_to_be_the_last_is_followed_by_another() -> None:
    said: list[bool] = []
    async for attempt in retry_until(deadline_after(0.02), pause_s=0):
        said.append(attempt.last)
        await asyncio.sleep(0.03)
    assert said == [False, True]
