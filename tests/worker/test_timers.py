"""Tests of the timers of which hardly any comes to its time."""

import asyncio

import pytest

from agentbus_worker.timers import Timers
from support.harness import BOUND_S, eventually


async def test_timers_are_called_in_the_order_in_which_they_are_due_and_only_those_that_are_not_cancelled():
    timers, called = Timers(), list[str]()
    late = timers.call_later(0.03, lambda: called.append("late"))
    timers.call_later(0.02, lambda: called.append("second"))
    cancelled = timers.call_later(0.01, lambda: called.append("cancelled"))
    timers.call_later(0.0, lambda: called.append("first"))
    cancelled.cancel()
    await eventually(lambda: called == ["first", "second", "late"], "all are called")
    late.cancel()  # nothing any more


async def test_a_timer_that_is_cancelled_by_one_that_was_due_with_it_is_not_called():
    timers, called = Timers(), list[str]()
    timers.call_later(0.0, lambda: other.cancel())  # noqa: PLW0108  # `other` is made below
    other = timers.call_later(0.0, lambda: called.append("other"))
    timers.call_later(0.01, lambda: called.append("last"))
    await eventually(lambda: called == ["last"], "the last one is called")


async def test_all_timers_take_one_of_the_event_loop(monkeypatch: pytest.MonkeyPatch):
    loop, timers, asked = asyncio.get_running_loop(), Timers(), list[float]()
    call_at = loop.call_at

    def counted(when: float, *args: object) -> object:
        asked.append(when)
        return call_at(when, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(loop, "call_at", counted)
    for _ in range(100):
        timers.call_later(BOUND_S, lambda: None).cancel()
    assert len(asked) == 1
