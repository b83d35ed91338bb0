"""A process that is killed between any two steps of a call leaves nothing that is queued for ever."""

import asyncio

import pytest

from agentbus import Coordinator
from agentbus.errors import TaskConflictError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.lost import lost_tasks
from agentbus.tasks.queue import queue_walk
from support.agreement import agreed, ledger, queue
from support.harness import SUPPORT, run_python
from support.mcp_harness import settle

pytestmark = pytest.mark.posix("kills processes")
_MOST_POINTS = 40


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was killed is not under way any more."""
    monkeypatch.setattr(queue_walk, "_REMEMBERED_S", 0.0)
    for name in ("_NAMED_AFTER_S", "LOST_AFTER_S"):
        monkeypatch.setattr(lost_tasks, name, 0.0)


async def points_of(server: NatsServer, call: str) -> int:
    """Kill a process at each point of a call; returns how many there are."""
    ran = await run_python(str(SUPPORT / "killed_calls.py"), server.url, call)
    assert ran.code == 0, ran.err
    return int(ran.out)


async def prepare(coordinator: Coordinator, *, asks: bool) -> None:
    """Settle a task for each point that there may be."""

    async def one(number: int) -> None:
        task = await coordinator.publish("code", "work", task_id=f"job-{number}")
        status = "needs_approval" if asks else "completed"
        await settle(coordinator, task.id, "status=needs_approval\nmay I?\n", status=status, task=task.message)

    await asyncio.gather(*(one(number) for number in range(1, _MOST_POINTS)))


async def test_a_publication(server: NatsServer, coordinator: Coordinator):
    points = await points_of(server, "publish")
    assert 6 <= points < _MOST_POINTS
    half_done = set(await ledger(coordinator)) - set(await queue(coordinator))
    assert half_done, "there is a point between the entry and the message"
    again = half_done.pop()
    assert (await coordinator.publish("code", "hi", task_id=again)).stored_again
    settled = await coordinator.lost_tasks()
    assert {(status.task_id, status.state) for status in settled} == {(task_id, "failed") for task_id in half_done}
    await agreed(coordinator)
    assert again in await queue(coordinator)


@pytest.mark.gate("answer")
@pytest.mark.parametrize("call", ["answer", "retry"])
async def test_a_follow_up(server: NatsServer, coordinator: Coordinator, call: str):
    await prepare(coordinator, asks=call == "answer")
    points = await points_of(server, call)
    assert 10 <= points < _MOST_POINTS
    if call == "answer":
        for point in range(1, points + 1):
            await coordinator.task(f"job-{point}").answer(approve=True)
            with pytest.raises(TaskConflictError):
                await coordinator.task(f"job-{point}").answer(approve=False)
        assert set(await ledger(coordinator)) >= {f"job-{point}.answer" for point in range(1, points + 2)}
    else:
        await coordinator.lost_tasks()
    await agreed(coordinator)


async def test_a_request_to_cancel(server: NatsServer, coordinator: Coordinator):
    await asyncio.gather(
        *(coordinator.publish("code", "work", task_id=f"job-{number}") for number in range(1, _MOST_POINTS))
    )
    points = await points_of(server, "cancel")
    assert 6 <= points < _MOST_POINTS
    states = [(await coordinator.task(f"job-{point}").status()).state for point in range(1, points + 2)]
    assert states == sorted(states, reverse=True), "queued up to the point at which the request is written"
    assert set(states) == {"queued", "cancelled"}
    await agreed(coordinator)
    assert (await coordinator.bus.stream_info(subjects.TASKS_STREAM)).state.messages == _MOST_POINTS - 1
