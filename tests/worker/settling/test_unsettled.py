"""An outcome that the bus has refused is settled by the worker that has it, or by another one of its machine."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.setup import set_up
from agentbus.errors import ApiError, BusError, CorruptEntryError, PermissionDeniedError, SetupMissingError
from agentbus.protocol.ledger_entry import Claim, Entry, Record, claimed
from agentbus.protocol.messages import Result, new_result
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus_worker.settling import outbox as outbox_module
from agentbus_worker.settling.claim import claim
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.outbox import Outbox, OutboxEntry
from agentbus_worker.settling.slots import Slots
from support.delivered import UNUSABLE, delivered
from support.harness import eventually
from support.jobs import acknowledged, publish, result_messages, settled

REFUSALS = [
    PermissionDeniedError("no right to the ledger"),
    SetupMissingError("no ledger"),
    ApiError("something else", 500, 10000),
    CorruptEntryError("an old entry of a replica"),
]


def refuse(monkeypatch: pytest.MonkeyPatch, error: BusError) -> Callable[[], None]:
    """Let the ledger refuse each commit; returns what ends that."""
    write, refusing = Ledger.write, [True]

    async def refused(self: Ledger, key: TaskKey, entry: Entry, **more: Any) -> int:
        if entry.terminal and refusing:
            raise error
        return await write(self, key, entry, **more)

    monkeypatch.setattr(Ledger, "write", refused)
    return refusing.clear


@contextlib.asynccontextmanager
async def refused(
    coordinator: Coordinator, server: NatsServer, folder: Path, **more: Any
) -> AsyncGenerator[tuple[Context, Delivery, str]]:
    """A task whose run has failed, and whose outcome the bus has refused."""
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x", task_id=UNUSABLE)
    async with delivered(coordinator, server, folder, **more) as (context, delivery):
        job = await claim(context, delivery)
        assert job is not None
        with Slots(1).reserve() as reservation:
            await job.run(reservation)
        assert (await coordinator.task(task_id).status()).state == "working"
        yield context, delivery, task_id


async def settled_once(coordinator: Coordinator, context: Context, task_id: str) -> None:
    status = await settled(coordinator, task_id)
    assert (status.state, status.record.entry.attempt) == ("failed", 1)
    assert len(await result_messages(coordinator)) == 1
    await acknowledged(coordinator)
    assert context.outbox.count() == 0


# -- the worker that has it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
async def test_the_next_delivery_commits_an_outcome_that_was_refused_and_runs_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, error: BusError
):
    allow = refuse(monkeypatch, error)
    async with refused(coordinator, server, tmp_path) as (context, delivery, task_id):
        assert context.outbox.count() == 1
        allow()
        assert await claim(context, delivery) is None
        await settled_once(coordinator, context, task_id)


async def test_a_refused_outcome_is_committed_without_another_delivery_and_acknowledged(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    allow = refuse(monkeypatch, REFUSALS[0])
    async with refused(coordinator, server, tmp_path, lease_s=0.6) as (context, _, task_id):
        trying = asyncio.create_task(context.unsettled.keep_on())
        try:
            overdue = await eventually(lambda: context.unsettled.overdue, "it is refused for longer than a lease")
            assert (overdue.count, overdue.reason) == (1, "no right to the ledger")
            allow()
            await settled_once(coordinator, context, task_id)
            assert context.unsettled.overdue is None
        finally:
            trying.cancel()
            await asyncio.wait({trying})


async def test_a_refused_outcome_that_the_disk_refuses_too_is_kept_in_memory(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    allow = refuse(monkeypatch, REFUSALS[0])
    monkeypatch.setattr(outbox_module, "write_atomically", full)
    async with refused(coordinator, server, tmp_path) as (context, delivery, task_id):
        assert not list(context.state_folder.outbox.iterdir())
        allow()
        assert await claim(context, delivery) is None
        await settled_once(coordinator, context, task_id)


async def test_a_refused_start_is_made_up_for_by_the_running_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    async with delivered(coordinator, server, tmp_path, lease_s=0.6) as (context, _):
        record = await claim_as(coordinator, task_id, "mine")
        await context.outbox.put(outcome_of(record))
        allow = refuse(monkeypatch, REFUSALS[1])
        await context.unsettled.settle_left()
        trying = asyncio.create_task(context.unsettled.keep_on())
        allow()
        try:
            await eventually(lambda: context.outbox.count() == 0, "it is settled")
        finally:
            trying.cancel()
            await asyncio.wait({trying})
    assert (await settled(coordinator, task_id)).state == "completed"


# -- another worker of its machine ------------------------------------------------------------------------------


async def claim_as(coordinator: Coordinator, task_id: str, nonce: str) -> Record:
    """Write a claim, as a worker does that runs the task."""
    ledger, key = Ledger(coordinator.bus), TaskKey("code", task_id)
    record = await ledger.read(key)
    assert isinstance(record, Record)
    entry = claimed(record.entry, Claim(worker="other", nonce=nonce, lease_s=30, since=now()), attempt=1)
    return replace(record, entry=entry, revision=await ledger.write(key, entry, revision=record.revision))


def outcome_of(record: Record, **changes: Any) -> OutboxEntry:
    fields: dict[str, Any] = {"agent": "code", "task_id": record.task_id, "nonce": "mine", **changes}
    result = result_of(str(fields["task_id"]), str(fields["nonce"]))
    return OutboxEntry(
        **fields, status="completed", inbox="main", result=result, written_at=time.time(), revision=record.revision
    )


def result_of(task_id: str, nonce: str) -> Result:
    task = {"id": task_id, "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": "test"}
    return new_result(task, result_id=f"result-{nonce}", status="completed", result="done")


def outbox_beside(folder: Path, bus: str, number: str) -> Outbox:
    """The outbox in the state folder of another worker of the agent on this machine."""
    path = folder / "state" / bus / "code" / number / "outbox"
    path.mkdir(parents=True, exist_ok=True)
    return Outbox(path)


@pytest.mark.parametrize("bus", ["same", "other name of the bus"])
async def test_an_outcome_in_the_folder_of_another_worker_of_the_machine_is_committed_and_not_run_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, bus: str
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    async with delivered(coordinator, server, tmp_path) as (context, delivery):
        name = context.state_folder.path.parent.parent.name if bus == "same" else "nats.example.com_4222-12345678"
        record, theirs = await claim_as(coordinator, task_id, "mine"), outbox_beside(tmp_path, name, "9")
        await theirs.put(outcome_of(record))
        assert await claim(context, delivery) is None
        assert theirs.count() == 1, "its own worker removes it"
        await acknowledged(coordinator)
    status = await settled(coordinator, task_id)
    assert (status.state, status.record.entry.result_id) == ("completed", "result-mine")
    assert len(await result_messages(coordinator)) == 1


@pytest.mark.parametrize(
    "changes",
    [{"nonce": "earlier"}, {"agent": "doc"}, {"owner": "alice"}, {"task_id": "another"}],
    ids=lambda changes: next(iter(changes)),
)
async def test_an_outcome_of_another_claim_is_never_committed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, changes: dict[str, str]
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    async with delivered(coordinator, server, tmp_path) as (context, delivery):
        record = await claim_as(coordinator, task_id, "mine")
        theirs = outbox_beside(tmp_path, "bus", "9")
        await theirs.put(outcome_of(record, **changes))
        for path in (
            tmp_path / "state" / "bus" / "code" / "9" / "outbox"
        ).iterdir():  # under the name by which it would be found
            path.rename(path.with_name("mine.json"))
        assert await claim(context, delivery) is None
    assert (await coordinator.task(task_id).status()).state == "working"
    assert await result_messages(coordinator) == []


async def test_an_outcome_that_two_workers_of_a_machine_commit_at_once_is_one_result(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    allow = refuse(monkeypatch, REFUSALS[0])
    async with refused(coordinator, server, tmp_path) as (context, delivery, task_id):
        allow()
        await asyncio.gather(claim(context, delivery), context.unsettled.settle_left(), claim(context, delivery))
        await settled_once(coordinator, context, task_id)
