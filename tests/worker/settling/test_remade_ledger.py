"""The ledger is deleted and made anew while a command runs: the outcome is still the one result of its task."""

import asyncio
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.pull_consumer import PullConsumer
from agentbus.bus.setup import set_up
from agentbus.errors import LeaseLostError
from agentbus.protocol import subjects
from agentbus.protocol.ids import random_token
from agentbus.protocol.ledger_entry import Claim, Record, claimed
from agentbus.protocol.messages import new_result
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus_worker.settling import lease as lease_module
from agentbus_worker.settling.lease import Lease
from support.delivered import unrecorded
from support.harness import eventually, worker, worker_toml
from support.jobs import acknowledged, publish, result_messages, settled, text


async def delete(bus: Coordinator, stream: str) -> None:
    await bus.bus.api(f"STREAM.DELETE.{stream}")


@pytest.mark.parametrize("made_again", ["before the end of the command", "after it"])
@pytest.mark.parametrize("lost", [(subjects.STATE_STREAM,), (subjects.STATE_STREAM, subjects.TASKS_STREAM)])
async def test_a_ledger_that_is_made_anew_takes_the_outcome_of_a_running_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, made_again: str, lost: tuple[str, ...]
) -> None:
    await set_up(coordinator.bus, ["code"])
    ran, end, config = tmp_path / "ran", tmp_path / "end", worker_toml(tmp_path, server.url)
    async with worker(config) as child:
        task_id = await publish(coordinator, f"touch:{ran} wait:{end} say:done")
        await eventually(ran.exists, "it runs")
        for stream in lost:
            await delete(coordinator, stream)
        if made_again == "after it":
            end.touch()
            await child.until_said("the bus refuses its result")
        await set_up(coordinator.bus, ["code"])
        end.touch()
        await eventually(lambda: result_messages(coordinator), "its result is in the inbox")
        status = await settled(coordinator, task_id)
        if subjects.TASKS_STREAM not in lost:
            await acknowledged(coordinator)
        await eventually(lambda: not list((tmp_path / "state").glob("*/code/*/outbox/*.json")), "nothing is kept")
    assert (status.state, text(status), status.record.entry.attempt) == ("completed", "done\n", 1)
    assert len(await result_messages(coordinator)) == 1
    assert ran.read_text(encoding="utf-8") == "ran\n"


@pytest.mark.parametrize(
    ("age_s", "other"), [(100.0, False), (0.0, True)], ids=["its lease is over", "another one has it"]
)
async def test_a_claim_is_not_entered_again_where_another_worker_may_have_the_task(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, age_s: float, other: bool
) -> None:
    monkeypatch.setattr(lease_module, "_LAG_TIMEOUT_S", 0.2)
    bus, ledger, key = coordinator.bus, Ledger(coordinator.bus), TaskKey("code", "job")
    await set_up(bus, ["code"])
    task = await coordinator.publish("code", "say:hi", task_type="test", task_id="job")
    found = await ledger.read(key)
    assert isinstance(found, Record)
    mine, theirs = (
        claimed(found.entry, Claim(worker=name, nonce=random_token(), lease_s=30, since=now()), attempt=1)
        for name in ("me", "other")
    )
    revision = await ledger.write(key, mine, revision=found.revision)
    await delete(coordinator, subjects.STATE_STREAM)
    await set_up(bus, ["code"])
    if other:
        await ledger.write(key, theirs, revision=0)
    async with PullConsumer(bus, subjects.TASKS_STREAM, subjects.durable("code")) as puller:
        since = asyncio.get_running_loop().time() - age_s
        lease = Lease(ledger, await puller.next(), key, mine, revision, unrecorded(key), since=since)
        with pytest.raises(LeaseLostError):
            await lease.commit(new_result(task.message.to_json(), result_id="result-1", status="completed"))
    assert lease.lost
