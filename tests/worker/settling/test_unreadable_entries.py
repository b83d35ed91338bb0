"""Ledger entries and messages that cannot be understood: each is its own fault, and every sender gets one result."""

import asyncio
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.headers import MSG_ID, REVISION
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Claim, Entry, Record, claimed
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from support.harness import SUPPORT, Process, eventually, process, worker, worker_toml
from support.jobs import acknowledged, counts, error, outcome, publish, result_messages, settled, short_lease, text

RESULT: dict[str, Any] = {"id": "r", "type": "task.result", "status": "completed", "task": {}}
CLAIM: dict[str, Any] = {"worker": "w", "nonce": "n", "lease_s": 1.5, "since": "now"}


async def entry_of(bus: Coordinator, task_id: str) -> Entry:
    found = await Ledger(bus.bus).read(TaskKey("code", task_id))
    assert isinstance(found, Record)
    return found.entry


async def write_over(bus: Coordinator, task_id: str, changes: dict[str, Any] | None) -> None:
    """Write the entry of a task as a party can that may write the key; None writes no JSON at all."""
    fields = {**(await entry_of(bus, task_id)).model_dump(exclude_none=True), **(changes or {})}
    data = b"\x1b]0;owned\x07" if changes is None else encode(fields)
    await bus.bus.store(subjects.state(TaskKey("code", task_id)), data)


async def the_one_result(bus: Coordinator, task_id: str) -> dict[str, Any]:
    [message] = [one for one in await result_messages(bus) if one["task"]["id"] == task_id]
    assert (await entry_of(bus, task_id)).result_id == message["id"]
    return message


@pytest.mark.gate("None", "3", "5", "8")
@pytest.mark.parametrize(
    "changes",
    [
        None,
        {"state": "queued", "retry_after_s": 1e300},
        {"state": "queued", "attempt": -(10**40)},
        {"state": "working", "claim": {**CLAIM, "lease_s": 1e300}},
        {"state": "working", "claim": {**CLAIM, "renewals": "many"}},
        {"state": "completed", "result": {}},
        {"state": "failed", "result": {**RESULT, "id": "x" * 100_000, "status": "failed"}},
        {"state": "queued", "result": RESULT},
        {"inbox": "main\r\nNats-Msg-Id: x"},
        {"inbox": ""},
    ],
)
async def test_an_entry_that_cannot_be_read_is_replaced_by_one_failed_result_and_the_worker_goes_on(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, changes: dict[str, Any] | None
):
    await short_lease(coordinator)
    bad = await publish(coordinator, "say:hi")
    await write_over(coordinator, bad, changes)
    async with worker(worker_toml(tmp_path, server.url)) as child:
        good = await outcome(coordinator, "say:hi")
        await acknowledged(coordinator)
        assert not child.said("Traceback")
    assert text(good) == "hi\n"
    message = await the_one_result(coordinator, bad)
    assert (message["status"], (await entry_of(coordinator, bad)).state) == ("failed", "failed")
    assert f"the ledger entry of {bad} (agent code) cannot be read" in message["error"]
    assert (await counts(coordinator))["AGENT_DEAD"] == 1


@pytest.mark.parametrize("changes", [None, {"retry_after_s": 1e300}, {"state": "completed"}])
async def test_the_worker_that_holds_a_task_writes_over_an_entry_that_cannot_be_read(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, changes: dict[str, Any] | None
):
    await short_lease(coordinator)
    running, end = tmp_path / "running", tmp_path / "end"
    async with worker(worker_toml(tmp_path, server.url)) as child, worker(worker_toml(tmp_path, server.url)):
        task_id = await publish(coordinator, f"touch:{running} wait:{end} say:done")
        await eventually(running.exists, "it runs")
        await write_over(coordinator, task_id, changes)
        end.touch()
        await eventually(lambda: result_messages(coordinator), "its result arrives")
        await acknowledged(coordinator)
        assert not child.said("Traceback")
    message = await the_one_result(coordinator, task_id)
    assert (message["status"], message["result"], message["attempt"]) == ("completed", "done\n", 1)
    assert running.read_text(encoding="utf-8") == "ran\n"
    assert (await counts(coordinator))["AGENT_DEAD"] == 0


# -- a message that is no valid task, and the entry of its task -------------------------------------------------


def refusing_long_ones(tmp_path: Path, server: NatsServer) -> Path:
    return worker_toml(tmp_path, server.url, worker={"max_task_bytes": 4096})


async def test_a_refused_message_of_a_task_that_was_tried_before_settles_it_in_the_ledger(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    task_id = await publish(coordinator, "x" * 5000)
    await write_over(coordinator, task_id, {"state": "queued", "attempt": 1, "last_failure": "exit status 3"})
    async with worker(refusing_long_ones(tmp_path, server)):
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert status.state == "failed"
    assert "too large" in error(status)
    await the_one_result(coordinator, task_id)


async def test_a_refused_message_of_a_task_that_another_worker_has_settles_it_once_that_lease_is_over(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    task_id = await publish(coordinator, "x" * 5000)
    ledger, found = Ledger(coordinator.bus), await Ledger(coordinator.bus).read(TaskKey("code", task_id))
    assert isinstance(found, Record)
    held = claimed(found.entry, Claim(worker="other", nonce="n", lease_s=4, since="now"), 1)

    async def hold() -> None:
        revision = found.revision
        while True:
            revision = await ledger.write(TaskKey("code", task_id), held, revision=revision)
            await asyncio.sleep(0.5)

    holding = asyncio.create_task(hold())  # a worker may take longer to start than that lease lasts
    async with worker(refusing_long_ones(tmp_path, server)) as child:
        await child.until_said("a worker may hold its task; looking again in ")
        holding.cancel()
        assert (await entry_of(coordinator, task_id)).state == "working"
        assert await result_messages(coordinator) == []
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert "too large" in error(status)
    await the_one_result(coordinator, task_id)


@pytest.mark.parametrize("headers", [{}, {REVISION: "1", MSG_ID: "code.job.guessed"}])
async def test_a_refused_message_that_only_bears_the_id_of_a_task_settles_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, headers: dict[str, str]
):
    forged = {"id": "job", "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": 7}
    await coordinator.bus.store("agent.code.tasks", encode(forged), headers=headers)
    await publish(coordinator, "say:hi", task_id="job")
    async with worker(worker_toml(tmp_path, server.url)):
        status = await settled(coordinator, "job")
        await acknowledged(coordinator)
    assert text(status) == "hi\n"
    assert (await the_one_result(coordinator, "job"))["status"] == "completed"
    assert (await counts(coordinator))["AGENT_DEAD"] == 1


# -- faults while a task is read --------------------------------------------------------------------------------


def faulty_worker(config: Path) -> AbstractContextManager[Process]:
    argv = [sys.executable, str(SUPPORT / "faulty_worker.py"), "--config", str(config)]
    return process(argv, config.parent / "worker.log")


@pytest.mark.parametrize(
    ("content", "fault"),
    [("meet a fault", "ZeroDivisionError"), ("meet an error that does not belong here", "InvalidIdError")],
)
async def test_a_fault_of_the_program_while_it_reads_a_task_makes_a_dead_letter_and_ends_no_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, content: str, fault: str
):
    await set_up(coordinator.bus, ["code"])
    with faulty_worker(worker_toml(tmp_path, server.url)) as child:
        bad = await publish(coordinator, content)
        status = await settled(coordinator, bad)
        assert text(await outcome(coordinator, "say:hi")) == "hi\n"
        await acknowledged(coordinator)
        assert child.said("a fault of this program, met while it read a task")
    assert f"a fault of the worker while it read the task: {fault}" in error(status)
    assert "secret" not in error(status)
    await the_one_result(coordinator, bad)
    dead = await coordinator.bus.last_message(subjects.DEAD_STREAM, subjects.dead("code"))
    assert dead is not None
    assert "secret" not in dead.headers["Bus-Reason"]


async def test_a_disk_that_is_full_while_a_task_is_read_makes_no_dead_letter(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    with faulty_worker(worker_toml(tmp_path, server.url)) as child:
        task_id = await publish(coordinator, "meet a full disk")
        await child.until_said("a task could not be claimed: [Errno 28] No space left on device")
        assert (await settled(coordinator, task_id)).state == "completed"
    assert (await counts(coordinator))["AGENT_DEAD"] == 0
