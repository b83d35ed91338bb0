"""The pause of a worker that cannot start its command: how long it is, and what ends it."""

import asyncio
import time

import pytest

from agentbus.protocol.subjects import TaskKey
from agentbus_worker import pause as pause_module
from agentbus_worker.pause import Pause
from support.harness import eventually


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pause_module, "_now", made)
    monkeypatch.setattr(pause_module, "_LOOK_S", 0.01)
    return made


def fail(pause: Pause) -> None:
    pause.begin("not_started", "no command")


async def length_s(pause: Pause, clock: Clock) -> float:
    """How long the pause lasts that has just begun, in whole seconds."""
    waiting, began = asyncio.create_task(pause.over()), clock.now_s
    for _ in range(3):
        await asyncio.sleep(0.02)
        assert not waiting.done()
    while not waiting.done():
        clock.now_s += 1
        await asyncio.sleep(0.02)
    assert waiting.result(), "and then one task is tried"
    return clock.now_s - began


async def test_a_pause_doubles_from_one_second_to_a_minute_and_begins_anew_after_a_start(clock: Clock):
    pause = Pause()
    assert (await pause.over(), pause.shown) == (False, None)
    for wanted_s in (1, 2, 4):
        fail(pause)
        assert await length_s(pause, clock) == wanted_s
    for _ in range(4):
        fail(pause)
        clock.now_s += 60
        assert await pause.over()
    fail(pause)
    clock.now_s += 59
    assert await length_s(pause, clock) == 1
    pause.started()
    assert (await pause.over(), pause.shown) == (False, None)
    fail(pause)
    assert await length_s(pause, clock) == 1


async def test_failures_of_commands_that_were_taken_before_do_not_prolong_a_pause(clock: Clock):
    pause, interrupts = Pause(), list[int]()
    pause.on_begin(lambda: interrupts.append(1))
    for _ in range(5):
        fail(pause)
    assert len(interrupts) == 1
    assert await length_s(pause, clock) == 1


async def test_a_command_that_was_taken_before_and_starts_does_not_end_a_pause(clock: Clock):
    pause = Pause()
    fail(pause)
    pause.started()
    assert await length_s(pause, clock) == 1


async def test_a_pause_is_over_soon_after_the_machine_has_slept(clock: Clock):
    pause = Pause()
    for _ in range(8):
        fail(pause)
        clock.now_s += 60
        assert await pause.over()
    fail(pause)
    waiting = asyncio.create_task(pause.over())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    clock.now_s += 3600  # which no timer of the event loop has noticed
    assert await asyncio.wait_for(waiting, 5)


async def test_a_clock_that_is_set_does_not_change_a_pause(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    pause = Pause()
    fail(pause)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert await length_s(pause, clock) == 1


async def test_a_task_that_is_tried_is_waited_for_until_its_command_starts_or_it_is_done(clock: Clock):
    pause, never = Pause(), asyncio.Event()

    async def runs_for_long() -> None:
        await never.wait()

    fail(pause)
    clock.now_s += 1
    assert await pause.over()
    running = asyncio.create_task(runs_for_long())
    told = asyncio.create_task(pause.told_by(running))
    await asyncio.sleep(0.05)
    assert not told.done()
    pause.started()
    await asyncio.wait_for(told, 5)
    never.set()
    await running
    fail(pause)
    clock.now_s += 1
    assert await pause.over()
    await asyncio.wait_for(pause.told_by(running), 5)
    assert await pause.over(), "nothing was learned, so another one is tried"


def test_others_count_as_started_only_between_two_failures_of_a_task(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pause_module, "_MOST_REMEMBERED", 2)
    pause, one, two = Pause(), TaskKey("code", "one"), TaskKey("code", "two")
    assert not pause.others_started_since(one)
    assert not pause.others_started_since(one)
    pause.started()
    assert pause.others_started_since(one)
    assert not pause.others_started_since(one)
    assert not pause.others_started_since(two)
    assert not pause.others_started_since(TaskKey("code", "three"))
    pause.started()
    assert not pause.others_started_since(one), "it was forgotten for the others"


async def test_a_pause_shows_its_reason_and_its_end(clock: Clock):
    changes = list[int]()
    pause = Pause(lambda: changes.append(1))
    pause.begin("not_started", "x" * 2000)
    shown = pause.shown
    assert shown is not None
    assert (shown.code, len(shown.reason), len(changes)) == ("not_started", 500, 1)
    clock.now_s += 1
    assert await pause.over()
    pause.started()
    await eventually(lambda: len(changes) == 2, "its end is a change, too")
