"""Many follow-ups over the places of one agent, which are all busy, with many new tasks in the queue."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from agentbus import Coordinator, TaskFailure
from agentbus.many_tasks import NewTask
from agentbus.provision.nats_server import NatsServer
from agentbus.task_handle import TaskHandle
from support.conversing import conversing_worker, done, forget_place, home, run_of, runs
from support.harness import Process, eventually, worker

CONTINUE_WAIT_S: Final = 1.0
BUSY_S: Final = 3.0
"""Longer than a follow-up waits for a place that is gone."""
FOLLOW_UPS: Final = 200
NEW: Final = 1_000
NEW_S: Final = 0.5
MOST_AHEAD: Final = int(2 * 30 / NEW_S)
"""A place that has looked for a follow-up in vain takes new tasks for half a minute. Over four places, one is rarely
missed twice. Over twenty each place gets one of twenty deliveries, so it is missed more often."""


def new_before_the_last(noted: list[list[str]]) -> int:
    """How many new tasks a place has begun between its first follow-up and its last one."""
    begun = [task for task, _, what in noted if what == "begins" and not task.startswith("busy-")][1:]
    follow_ups = [at for at, task in enumerate(begun) if not task.startswith("new-")]
    return sum(task.startswith("new-") for task in begun[follow_ups[0] : follow_ups[-1]])


def new_of(places: list[Path]) -> int:
    """How many new tasks all places have begun."""
    begun = [task for place in places for task, _, what in runs(place) if what == "begins"]
    return sum(task.startswith("new-") for task in begun)


@pytest.mark.long
@pytest.mark.parametrize("count", [4, 20])
async def test_each_of_two_hundred_follow_ups_runs_where_its_session_is_while_new_tasks_go_on(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path, count: int
) -> None:
    places = [tmp_path / f"place-{number}" for number in range(count)]
    barrier, firsts, workers = tmp_path / "go", list[TaskHandle](), list[Process]()
    async with AsyncExitStack() as stack:
        for number, place in enumerate(places):
            config = conversing_worker(place, server.url, continue_wait_seconds=CONTINUE_WAIT_S)
            workers.append(await stack.enter_async_context(worker(config, env=home(place))))
            first = await coordinator.publish("code", f"remember {number}\nwait {barrier}")
            await eventually(lambda: sum(len(runs(one)) for one in places) > number, "it runs")  # noqa: B023
            firsts.append(first)
        barrier.touch()
        homes = [run_of(await done(first))["place"] for first in firsts]
        assert len(set(homes)) == len(places), "each machine has had one of them"
        barrier.unlink()
        for number in range(len(places)):
            await coordinator.publish("code", f"wait {barrier}\nsleep 1", task_id=f"busy-{number}")
        await eventually(lambda: all(runs(place)[-1][-1] == "begins" for place in places), "all machines are busy")
        new = [NewTask("code", f"recall\nsleep {NEW_S}", task_id=f"new-{number}") for number in range(NEW)]
        async for one in coordinator.publish_many(new):
            assert not isinstance(one, TaskFailure)
        expected = [number % len(places) for number in range(FOLLOW_UPS)]
        follow_ups = [await firsts[number].follow_up("recall\nsleep 0.02") for number in expected]
        await asyncio.sleep(BUSY_S)
        barrier.touch()
        waited = await coordinator.wait(follow_ups, timeout_s=600)
        meanwhile = new_of(places)
        assert not waited.pending
        results = [(await one.result()).to_json() for one in follow_ups]
        assert [one["result"] for one in results] == [str(number) for number in expected]
        assert [run_of(one)["place"] for one in results] == [homes[number] for number in expected]
        assert {run_of(one)["resumed"] for one in results} == {True}
        assert meanwhile, "new tasks go on meanwhile, where a place has no follow-ups left"
        if count == 4:
            ahead = [new_before_the_last(runs(place)) for place in places]
            assert max(ahead) <= MOST_AHEAD, f"follow-ups come before new tasks, and so many went ahead: {ahead}"
            assert new_of(places) < NEW, "there were new tasks in the queue all the while"
        await gone_in_the_time_promised(coordinator, firsts[0], homes[0], workers[0])


async def gone_in_the_time_promised(
    coordinator: Coordinator, first: TaskHandle, place: str, worker_of_place: Process
) -> None:
    """Kill a place, and see that its follow-ups come to their end soon after `continue_wait_seconds`."""
    worker_of_place.kill()
    await forget_place(coordinator.bus, place)
    clock = asyncio.get_running_loop()
    published = clock.time()
    lost, fresh = await first.follow_up("recall"), await first.follow_up("recall", fresh=True)
    failed, begun = await done(lost), await done(fresh)
    assert failed["failure"]["code"] == "session_gone"
    assert (begun["status"], run_of(begun)["resumed"]) == ("completed", False)
    assert clock.time() - published < CONTINUE_WAIT_S + 30, "a delivery comes again after 5 s at most, and has its turn"
