"""A compare-and-set that is refused because another party wrote first: read again, or drop what is not ours."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.config.loading import load_worker
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import CancelRequest, Claim, Entry, Record, claimed, renewed
from agentbus.protocol.messages import Result, new_result
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.settle import Lost, Won, commit, settle
from agentbus_worker.metrics import metrics_of
from agentbus_worker.settling import lease_monitor
from agentbus_worker.settling.claim import claim
from agentbus_worker.settling.lease_monitor import LeaseMonitor
from agentbus_worker.settling.outbox import Outbox, OutboxEntry
from agentbus_worker.settling.server_clock import ServerClock
from agentbus_worker.settling.slots import Slots
from agentbus_worker.settling.unsettled import Unsettled
from support.delivered import delivered
from support.harness import SUPPORT, eventually, process, worker_toml
from support.jobs import acknowledged, counts, publish, result_messages

CANCEL = CancelRequest(by="agent-main", reason="not needed", at="2026-05-18T00:00:00+00:00")


async def entry_of(coordinator: Coordinator, task_id: str) -> Record:
    found = await Ledger(coordinator.bus).read(TaskKey("code", task_id))
    assert isinstance(found, Record)
    return found


async def claim_as(coordinator: Coordinator, task_id: str, nonce: str, *, lease_s: float = 30) -> Record:
    """Write a claim, as a worker does."""
    record = await entry_of(coordinator, task_id)
    entry = claimed(record.entry, new_claim(nonce, lease_s), attempt=record.entry.attempt + 1)
    await Ledger(coordinator.bus).write(TaskKey("code", task_id), entry, revision=record.revision)
    return await entry_of(coordinator, task_id)


def new_claim(nonce: str, lease_s: float = 30) -> Claim:
    return Claim(worker=f"worker-{nonce}", nonce=nonce, lease_s=lease_s, since=now())


def result_of(task_id: str) -> Result:
    task = {"id": task_id, "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": "test"}
    return new_result(task, result_id=f"result-{task_id}", status="completed", result="done")


def overtake(monkeypatch: pytest.MonkeyPatch, state: str, **changes: Any) -> None:
    """Let another party change the ledger entry right before the first write that makes it `state`."""
    write, waiting = Ledger.write, [changes]

    async def overtaken(self: Ledger, key: TaskKey, entry: Entry, *, revision: int, **more: Any) -> int:
        if waiting and (entry.state == state or (state == "settled" and entry.terminal)):
            found = await self.read(key)
            assert isinstance(found, Record)
            other = found.entry.model_copy(update=waiting.pop())
            await write(self, key, other, revision=found.revision)
        return await write(self, key, entry, revision=revision, **more)

    monkeypatch.setattr(Ledger, "write", overtaken)


# -- settle -----------------------------------------------------------------------------------------------------


async def test_a_settlement_that_lost_its_compare_and_set_publishes_nothing(coordinator: Coordinator):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    stale = await entry_of(coordinator, task_id)
    await claim_as(coordinator, task_id, "other")
    verdict = await settle(
        coordinator.bus, TaskKey("code", task_id), stale.entry, result_of(task_id), revision=stale.revision
    )
    assert verdict == Lost()
    assert await result_messages(coordinator) == []
    assert (await coordinator.task(task_id).status()).state == "working"


async def test_a_settlement_that_is_repeated_after_a_lost_answer_succeeds_with_one_result(
    coordinator: Coordinator,
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    record = await entry_of(coordinator, task_id)
    for _ in range(2):
        verdict = await settle(
            coordinator.bus, TaskKey("code", task_id), record.entry, result_of(task_id), revision=record.revision
        )
        assert isinstance(verdict, Won)
    assert len(await result_messages(coordinator)) == 1


# -- the lease of another worker --------------------------------------------------------------------------------


async def test_without_the_servers_clock_a_lease_expires_when_its_revision_stays_unchanged(coordinator: Coordinator):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    record = await claim_as(coordinator, task_id, "other", lease_s=0.5)
    clock = ServerClock(coordinator.bus, subjects.TASKS_STREAM, "agent-that-does-not-exist")
    assert await clock.now() is None
    monitor = LeaseMonitor(coordinator.bus, clock)

    async def over() -> bool:
        return await monitor.remaining_s(record) <= 0

    began = time.monotonic()
    assert await monitor.remaining_s(record) > 0
    await eventually(over, "the lease is over")
    assert time.monotonic() - began >= 0.45
    await Ledger(coordinator.bus).write(TaskKey("code", task_id), renewed(record.entry), revision=record.revision)
    record = await entry_of(coordinator, task_id)
    assert await monitor.remaining_s(record) > 0, "a renewal begins a new lease"


async def test_the_lease_monitor_forgets_the_task_that_it_has_not_seen_for_the_longest_time(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease_monitor, "_SEEN_LIMIT", 2)
    monitor = LeaseMonitor(coordinator.bus, ServerClock(coordinator.bus, subjects.TASKS_STREAM, "agent-unknown"))

    async def left_s(task_id: str) -> float:
        return await monitor.lease_left_s(TaskKey("code", task_id), 1, None, 30)

    first = {task_id: await left_s(task_id) for task_id in ("a", "b")}
    assert first == {"a": 30, "b": 30}, "seen for the first time"
    assert await left_s("a") < 30
    assert await left_s("c") == 30
    assert await left_s("a") < 30
    assert await left_s("b") == 30, "it made room for the others"


# -- the replay of an outbox ------------------------------------------------------------------------------------


async def replayed(coordinator: Coordinator, folder: Path, task_id: str) -> Outbox:
    await claim_as(coordinator, task_id, "mine")
    outbox, config = Outbox(folder), load_worker(worker_toml(folder, "nats://127.0.0.1:4222"))[0]
    result = result_of(task_id)
    await outbox.put(
        OutboxEntry(
            agent="code", task_id=task_id, nonce="mine", status="completed", inbox="main", result=result,
            written_at=time.time(),
        )
    )  # fmt: skip
    clock = ServerClock(coordinator.bus, subjects.TASKS_STREAM, subjects.durable("code"))
    with metrics_of(config) as metrics:
        await Unsettled(coordinator.bus, outbox, clock, metrics, lease_s=30).settle_left()
    return outbox


async def test_a_replay_that_conflicts_with_a_cancel_request_reads_again_and_commits(
    tmp_path: Path, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    overtake(monkeypatch, "settled", cancel=CANCEL)
    outbox = await replayed(coordinator, tmp_path, task_id)
    assert outbox.count() == 0
    assert (await coordinator.task(task_id).status()).state == "completed"
    assert len(await result_messages(coordinator)) == 1


async def test_a_replay_that_conflicts_with_another_worker_reads_again_and_drops_the_outcome(
    tmp_path: Path, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    overtake(monkeypatch, "settled", claim=new_claim("other"))
    outbox = await replayed(coordinator, tmp_path, task_id)
    assert outbox.count() == 0
    assert (await coordinator.task(task_id).status()).state == "working"
    assert await result_messages(coordinator) == []


# -- a job ------------------------------------------------------------------------------------------------------


async def test_a_settlement_without_a_run_that_conflicts_is_decided_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    await coordinator.task(task_id).cancel("first")
    overtake(monkeypatch, "settled", cancel=CANCEL)
    async with delivered(coordinator, server, tmp_path) as (context, delivery):
        assert await claim(context, delivery) is None
    [message] = await result_messages(coordinator)
    assert (message["status"], message["error"]) == ("cancelled", "cancelled by agent-main: not needed")


async def test_a_task_that_another_worker_has_claimed_is_not_released(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    async with delivered(coordinator, server, tmp_path) as (context, delivery):
        job = await claim(context, delivery)
        assert job is not None
        overtake(monkeypatch, "queued", claim=new_claim("other"), attempt=2)
        job.stop_now()
        with Slots(1).reserve() as reservation:
            await job.run(reservation)
    status = await coordinator.task(task_id).status()
    assert (status.state, status.record.entry.attempt) == ("working", 2)
    assert await result_messages(coordinator) == []


async def test_a_failed_attempt_whose_task_another_worker_has_claimed_is_not_queued_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    keys = {"retry_on": ["exit:3"]}
    config = worker_toml(tmp_path, server.url, chat_cmd=["/bin/sh", "-c", "exit 3", "sh", "{input}"], worker=keys)
    argv = [sys.executable, str(SUPPORT / "overtaken_worker.py"), "--config", str(config)]
    with process(argv, tmp_path / "worker.log") as child:
        task_id = await publish(coordinator, "x")

        async def overtaken() -> bool:
            found = (await entry_of(coordinator, task_id)).entry.claim
            return found is not None and found.worker == "other"

        await eventually(overtaken, "another worker has claimed it")
        child.terminate()
        assert await child.exit_code() == 0
        assert not child.said("trying again in")
    status = await coordinator.task(task_id).status()
    assert (status.state, status.record.entry.attempt) == ("working", 2)
    assert await result_messages(coordinator) == []


# -- a dead letter ----------------------------------------------------------------------------------------------


async def test_a_dead_letter_whose_task_has_its_result_by_now_makes_no_second_one(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x" * 5_000)
    async with delivered(coordinator, server, tmp_path, max_task_bytes=2_000) as (context, delivery):
        record = await claim_as(coordinator, task_id, "other")
        # A worker with a larger limit settles it, and dies before it has published.
        result = result_of(task_id)
        assert isinstance(
            await commit(context.ledger, TaskKey("code", task_id), record.entry, result, revision=record.revision), Won
        )
        assert await claim(context, delivery) is None
    assert (await counts(coordinator))[subjects.DEAD_STREAM] == 1
    await acknowledged(coordinator)
    [message] = await result_messages(coordinator)
    assert message == result.to_json()
