"""A task that no worker took while the bus kept it gets a result, too."""

import asyncio
import json
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.errors import TaskContentMissingError
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.expiry import settle_expired
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.lost import lost_tasks
from agentbus.tasks.queue.queue_state import queue_state
from agentbus.tasks.waiting import wait
from support.altered_link import altered_link, without
from support.harness import BOUND_S, eventually, run_cli, worker, worker_toml
from support.jobs import acknowledged, counts, error, publish, result_messages, settled


async def keep_tasks_for(bus: Coordinator, seconds: float) -> None:
    config = (await bus.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
    age = int(seconds * 1e9)
    await bus.bus.api("STREAM.UPDATE.AGENT_TASKS", {**config, "max_age": age, "duplicate_window": min(age, 10**9)})


async def expired(bus: Coordinator, **more: str) -> str:
    """A task whose message the bus has dropped."""
    await keep_tasks_for(bus, 0.2)
    task_id = await publish(bus, "say:too_late", **more)
    await acknowledged(bus)
    return task_id


async def test_whoever_looks_at_it_finds_it_failed_and_its_result_is_in_the_inbox(
    server: NatsServer, coordinator: Coordinator
):
    task_id = await expired(coordinator)
    looks = await asyncio.gather(*(run_cli("task", "get", task_id, "--nats-url", server.url) for _ in range(3)))
    for look in looks:
        assert json.loads(look.out)["state"] == "failed", look.err
    [message] = await result_messages(coordinator)
    assert (message["status"], message["task"]["id"]) == ("failed", task_id)
    assert message["error"] == "expired: no worker has finished it within 0.2 s"


async def test_a_wait_without_a_time_limit_ends_with_it(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lost_tasks, "_NAMED_AFTER_S", 0.1)  # no bus keeps tasks for less than two seconds but this one
    task_id = await expired(coordinator)
    waited = await asyncio.wait_for(coordinator.wait([task_id]), BOUND_S)
    assert error(waited.settled[task_id]).startswith("expired")


async def test_a_wait_that_began_before_ends_with_it(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wait, "_EXPIRY_LOOK_S", 0.3)
    await keep_tasks_for(coordinator, 1.0)
    task_id = await publish(coordinator, "say:too_late")
    waited = await asyncio.wait_for(coordinator.wait([task_id]), BOUND_S)
    assert error(waited.settled[task_id]).startswith("expired")


async def test_one_that_was_cancelled_while_it_waited_stays_cancelled(coordinator: Coordinator):
    await keep_tasks_for(coordinator, 1.0)
    task_id = await publish(coordinator, "say:too_late")
    assert (await coordinator.task(task_id).cancel("no need")).state == "cancelled"
    await acknowledged(coordinator)

    async def told() -> bool:
        assert (await coordinator.task(task_id).status()).state == "cancelled"
        return bool(await result_messages(coordinator))

    await eventually(told, "the result is in the inbox")
    [message] = await result_messages(coordinator)
    assert (message["status"], message["error"]) == ("cancelled", "cancelled by agent-main: no need")


async def test_a_result_that_its_inbox_does_not_take_yet_is_there_after_a_later_look(coordinator: Coordinator):
    task_id = await expired(coordinator)
    config = (await coordinator.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await coordinator.bus.store("agent.doc.results", b"filler")
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_msgs": 1})
    assert (await coordinator.task(task_id).status()).state == "failed"
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_msgs": -1})
    assert await result_messages(coordinator) == []
    for _ in range(2):
        assert (await coordinator.task(task_id).status()).state == "failed"
        [message] = await result_messages(coordinator)
        assert message["error"].startswith("expired")


async def test_a_task_that_runs_for_longer_than_the_bus_keeps_it_is_not_expired(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        await keep_tasks_for(coordinator, 3600)
        task_id = await publish(coordinator, f"touch:{tmp_path}/ran sleep:1.5 say:done")
        await eventually((tmp_path / "ran").exists, "it runs")
        await keep_tasks_for(coordinator, 0.2)
        await acknowledged(coordinator)
        assert (await settled(coordinator, task_id)).state == "completed"
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


async def entry_of(bus: Coordinator, task_id: str) -> Record:
    found = await Ledger(bus.bus).read(TaskKey("code", task_id))
    assert isinstance(found, Record)
    return found


async def looked_at(bus: Coordinator, record: Record) -> list[Record]:
    return await settle_expired(bus.bus, [record], await queue_state(bus.bus, counted=False))


async def test_two_readers_that_settle_an_expired_task_at_once_get_the_same_result(coordinator: Coordinator):
    record = await entry_of(coordinator, await expired(coordinator))
    [one], [other] = await asyncio.gather(*(looked_at(coordinator, record) for _ in range(2)))
    assert one.entry.result == other.entry.result
    assert one.entry.state == "failed"
    [message] = await result_messages(coordinator)
    assert message == one.entry.result


async def test_a_server_without_a_time_in_its_answers_expires_no_task(server: NatsServer, coordinator: Coordinator):
    record = await entry_of(coordinator, await expired(coordinator))
    async with altered_link(server.url) as link, connect(link.url) as main:
        link.changes["$JS.API.STREAM.INFO"] = without("ts")
        assert await looked_at(main, record) == [record]
        assert await result_messages(coordinator) == []
        [settled_one] = await looked_at(coordinator, record)
        await coordinator.bus.api("STREAM.PURGE.AGENT_RESULTS")
        # Its age is not known, so a repetition could be stored as a second one.
        assert await looked_at(main, settled_one) == [settled_one]
        link.changes = {"$JS.API.STREAM.INFO.AGENT_RESULTS": without("ts")}
        assert await looked_at(main, settled_one) == [settled_one]
    assert await result_messages(coordinator) == []


async def test_the_result_of_an_expired_task_is_not_published_again_outside_the_duplicate_window(
    coordinator: Coordinator,
):
    config = (await coordinator.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "duplicate_window": int(0.2e9)})
    task_id = await expired(coordinator)
    assert (await coordinator.task(task_id).status()).state == "failed"
    record = await entry_of(coordinator, task_id)

    async def half_over() -> bool:
        now = (await coordinator.bus.stream_info("AGENT_RESULTS")).server_time
        return now is not None and (now - record.changed_at).total_seconds() > 0.1

    await eventually(half_over, "half of the memory of ids is over")
    await coordinator.bus.api("STREAM.PURGE.AGENT_RESULTS")
    assert (await coordinator.task(task_id).status()).state == "failed"
    assert await result_messages(coordinator) == []


async def test_an_expired_task_cannot_be_retried_without_its_content(coordinator: Coordinator):
    task_id = await expired(coordinator)
    assert (await coordinator.task(task_id).status()).state == "failed"
    with pytest.raises(TaskContentMissingError, match="publish it as a new task"):
        await coordinator.task(task_id).retry()
