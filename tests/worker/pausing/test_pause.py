"""The pauses of a worker: how long each is, and what ends it."""

import asyncio
import time

import pytest

from agentbus.protocol.parties.control_entry import Asked, OperatorPause, Resumed
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.pausing import pause as pause_module
from agentbus_worker.pausing.pause import Cause, Pause, Trial
from support.harness import BOUND_S, eventually


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
    assert await asyncio.wait_for(waiting, BOUND_S)


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
    await asyncio.wait_for(told, BOUND_S)
    never.set()
    await running
    fail(pause)
    clock.now_s += 1
    assert await pause.over()
    await asyncio.wait_for(pause.told_by(running), BOUND_S)
    assert await pause.over(), "nothing was learned, so another one is tried"


@pytest.mark.parametrize("cause", ["machine", "account"])
def test_others_count_as_done_only_between_two_failures_of_a_task(monkeypatch: pytest.MonkeyPatch, cause: Cause):
    monkeypatch.setattr(pause_module, "_MOST_REMEMBERED", 2)
    pause, one, two = Pause(), TaskKey("code", "one"), TaskKey("code", "two")
    assert not pause.others_succeeded_since(one, cause)
    assert not pause.others_succeeded_since(one, cause)
    pause.started().worked()
    assert pause.others_succeeded_since(one, cause)
    assert not pause.others_succeeded_since(one, cause)
    assert not pause.others_succeeded_since(two, cause)
    assert not pause.others_succeeded_since(TaskKey("code", "three"), cause)
    pause.started().worked()
    assert not pause.others_succeeded_since(one, cause), "it was forgotten for the others"


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


# -- faults of the account ------------------------------------------------------------------------------------------


def refuse(pause: Pause, after_s: float | None = None) -> None:
    pause.begin("auth", "a refused key", cause="account", after_s=after_s)


async def probe(pause: Pause, clock: Clock, after_s: float) -> Trial:
    """Begin the run of the task that is tried once the pause is over."""
    clock.now_s += after_s - 1
    waiting = asyncio.create_task(pause.over())
    await asyncio.sleep(0.05)
    assert not waiting.done(), "not before its time"
    clock.now_s += 1
    assert await asyncio.wait_for(waiting, BOUND_S)
    return pause.started()


async def test_a_pause_of_the_account_doubles_to_half_an_hour_until_the_agent_of_the_tried_task_works(clock: Clock):
    pause = Pause()
    refuse(pause)
    for wanted_s in (30, 60, 120, 240, 480, 960, 1800, 1800):
        await probe(pause, clock, wanted_s)
        assert pause.shown is not None, "that its command starts proves nothing"
        refuse(pause)
    trial = await probe(pause, clock, 1800)
    trial.worked()
    assert (await pause.over(), pause.shown) == (False, None)
    refuse(pause)
    await probe(pause, clock, 30)


async def test_a_run_that_began_before_the_pause_does_not_end_it(clock: Clock):
    pause = Pause()
    earlier = pause.started()
    refuse(pause)
    trial = await probe(pause, clock, 30)
    earlier.worked()
    assert pause.shown is not None
    trial.worked()
    assert pause.shown is None


@pytest.mark.parametrize(("named_s", "length_s"), [(3600, 3600), (45, 45), (0.5, 30), (10 * 86_400, 6 * 3600)])
async def test_a_pause_is_as_long_as_the_server_names_within_bounds(clock: Clock, named_s: float, length_s: float):
    pause = Pause()
    refuse(pause, after_s=named_s)
    await probe(pause, clock, length_s)
    refuse(pause)
    await probe(pause, clock, 60)


async def test_a_fault_of_the_machine_after_one_of_the_account_has_a_length_of_its_own(clock: Clock):
    pause = Pause()
    refuse(pause)
    await probe(pause, clock, 30)
    fail(pause)
    assert await length_s(pause, clock) == 1


async def test_a_task_that_goes_back_is_kept_apart_until_another_one_was_tried_but_not_for_long(clock: Clock):
    pause = Pause()
    refuse(pause)
    assert pause.apart_s == 32
    refuse(pause, after_s=1)
    clock.now_s += 30
    assert await pause.over()
    refuse(pause, after_s=3600)
    assert pause.apart_s == 300


# -- by hand --------------------------------------------------------------------------------------------------------

BY_HAND_SINCE = "2026-05-18T00:00:00+00:00"
BY_HAND = Asked(paused=OperatorPause(by="main", reason="a look", since=BY_HAND_SINCE))


def resumed(at: str) -> Asked:
    return Asked(resumed=Resumed(by="main", since=at))


async def test_a_pause_by_hand_holds_until_it_is_taken_back_whatever_else_ends(clock: Clock):
    pause, interrupts = Pause(), list[int]()
    pause.on_begin(lambda: interrupts.append(1))
    pause.ask(Asked())
    assert not await pause.over()
    for _ in range(3):
        pause.ask(BY_HAND)  # as it is read with each heartbeat
    assert len(interrupts) == 1
    shown = pause.shown
    assert shown is not None
    assert (shown.code, shown.reason, shown.until, shown.since) == ("operator", "by main: a look", "", BY_HAND_SINCE)
    fail(pause)
    clock.now_s += 60
    waiting = asyncio.create_task(pause.over())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    pause.ask(resumed("1"))
    assert await asyncio.wait_for(waiting, BOUND_S), "what it had by itself is tried with one task"


async def test_each_new_request_to_go_on_has_a_paused_worker_try_a_task_at_once(clock: Clock):
    pause = Pause()
    pause.ask(resumed("1"))
    refuse(pause, after_s=3600)
    pause.ask(resumed("1"))
    waiting = asyncio.create_task(pause.over())
    await asyncio.sleep(0.05)
    assert not waiting.done(), "that was asked before"
    pause.ask(resumed("2"))
    assert await asyncio.wait_for(waiting, BOUND_S)
