"""A queued task that the queue does not hold: stored again, named, and settled once that is sure."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, connect
from agentbus.admin import dead_letters
from agentbus.bus.jetstream import Bus, Stored
from agentbus.errors import RequeueError
from agentbus.protocol import subjects
from agentbus.protocol.headers import MSG_ID, REVISION
from agentbus.protocol.ids import task_msg_id
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Claim, Record, claimed, queued
from agentbus.protocol.messages import new_task
from agentbus.protocol.roles import Role
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks import publish
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.lost import lost_tasks
from agentbus.tasks.queue import queue_walk
from agentbus.tasks.status import Loss
from support.doctor import doctor_in_process, the_finding
from support.harness import eventually, run_cli, worker, worker_toml
from support.jobs import acknowledged, counts, result_messages, settled, text
from support.old_version import unpack
from support.restricted import all_but, restricted_bus


async def purge(bus: Coordinator) -> None:
    """Somebody empties the queue."""
    await bus.bus.api(f"STREAM.PURGE.{subjects.TASKS_STREAM}")


async def delete(bus: Coordinator, seq: int) -> None:
    """Somebody deletes one message, or a server has lost it."""
    await bus.bus.api(f"STREAM.MSG.DELETE.{subjects.TASKS_STREAM}", {"seq": seq})


async def entry_of(bus: Coordinator, task_id: str, owner: str = "main") -> Record:
    record = await Ledger(bus.bus).read(TaskKey("code", task_id, owner))
    assert isinstance(record, Record)
    return record


async def message_of(bus: Coordinator, subject: str = "agent.code.tasks") -> StoredMessage:
    message = await bus.bus.last_message(subjects.TASKS_STREAM, subject)
    assert message is not None
    return message


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for messages at once, and take every publication for one that has had its time."""
    monkeypatch.setattr(lost_tasks, "_NAMED_AFTER_S", 0.0)
    monkeypatch.setattr(lost_tasks, "LOST_AFTER_S", 0.0)
    monkeypatch.setattr(queue_walk, "_REMEMBERED_S", 0.0)


@pytest.fixture
def named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for messages at once, while publications may still be under way."""
    monkeypatch.setattr(lost_tasks, "_NAMED_AFTER_S", 0.0)
    monkeypatch.setattr(queue_walk, "_REMEMBERED_S", 0.0)


# -- publishing it again ----------------------------------------------------------------------------------------


async def test_a_task_whose_message_was_purged_is_stored_again_and_runs(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await coordinator.publish("code", "say:after_all", task_id="job")
    await purge(coordinator)
    again = await coordinator.publish("code", "say:after_all", task_id="job")
    assert (again.known, again.stored_again, again.state_at_publish) == (True, True, "queued")
    record, message = await entry_of(coordinator, "job"), await message_of(coordinator)
    assert message.headers[MSG_ID] == f"code.job.{record.entry.publication}"
    assert message.headers[REVISION] == str(record.revision)
    once_more = await coordinator.publish("code", "say:after_all", task_id="job")
    assert (once_more.known, once_more.stored_again) == (True, False)
    async with worker(worker_toml(tmp_path, server.url)):
        assert text(await settled(coordinator, "job")) == "after all\n"
        await acknowledged(coordinator)
    assert len(await result_messages(coordinator)) == 1


async def test_only_the_task_whose_message_was_deleted_is_stored_again(coordinator: Coordinator):
    for number in range(3):
        await coordinator.publish("code", "hi", task_id=f"job{number}")
    await delete(coordinator, 2)
    again = [await coordinator.publish("code", "hi", task_id=f"job{number}") for number in range(3)]
    assert [task.stored_again for task in again] == [False, True, False]
    await delete(coordinator, 4)  # the message that was stored again
    assert (await coordinator.publish("code", "hi", task_id="job1")).stored_again
    assert (await counts(coordinator))[subjects.TASKS_STREAM] == 3


async def test_a_message_of_another_task_at_the_sequence_is_not_taken_for_it(coordinator: Coordinator):
    await coordinator.publish("code", "hi", task_id="job")
    await delete(coordinator, 1)
    await coordinator.publish("code", "hi", task_id="other")
    assert (await coordinator.publish("code", "hi", task_id="job")).stored_again


async def test_two_publishers_that_store_a_lost_task_again_store_one_message(
    server: NatsServer, coordinator: Coordinator
):
    await coordinator.publish("code", "hi", task_id="job")
    await purge(coordinator)
    async with connect(server.url) as one, connect(server.url) as two:
        await asyncio.gather(*(bus.publish("code", "hi", task_id="job") for bus in (one, two, one, two)))
    assert (await counts(coordinator))[subjects.TASKS_STREAM] == 1


async def test_a_lost_task_that_was_cancelled_gets_its_result_when_it_is_published_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran = tmp_path / "ran"
    await coordinator.publish("code", f"touch:{ran}", task_id="job")
    await coordinator.task("job").cancel("no need")
    await purge(coordinator)
    await coordinator.publish("code", f"touch:{ran}", task_id="job")
    assert (await message_of(coordinator)).headers[REVISION] == "0"
    async with worker(worker_toml(tmp_path, server.url)):
        await acknowledged(coordinator)
    [result] = await result_messages(coordinator)
    assert (result["status"], ran.exists()) == ("cancelled", False)


async def test_a_lost_task_that_was_tried_before_keeps_the_number_of_its_attempts(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await coordinator.publish("code", "exit:3", task_id="job")
    record = await entry_of(coordinator, "job")
    claim = Claim(worker="w", nonce="n", lease_s=30, since="2026-05-18T00:00:00+00:00")
    tried = claimed(record.entry, claim, 2).model_copy(update={"state": "queued", "last_failure": "exit:3"})
    await Ledger(coordinator.bus).write(record.key, tried, revision=record.revision)
    await purge(coordinator)
    await coordinator.publish("code", "exit:3", task_id="job")
    async with worker(worker_toml(tmp_path, server.url)):
        status = await settled(coordinator, "job")
    assert status.record.entry.attempt == 3


async def test_a_worker_of_an_earlier_version_takes_a_task_that_was_stored_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    old = unpack(tmp_path / "old")
    for number in range(2):
        await coordinator.publish("code", "say:taken", task_id=f"job{number}")
    await coordinator.task("job1").cancel()
    await purge(coordinator)
    for number in range(2):
        assert (await coordinator.publish("code", "say:taken", task_id=f"job{number}")).stored_again
    async with worker(worker_toml(tmp_path, server.url), env=old.env):
        assert text(await settled(coordinator, "job0")) == "taken\n"
        await acknowledged(coordinator)
    results = {result["task"]["id"]: result["status"] for result in await result_messages(coordinator)}
    assert results == {"job0": "completed", "job1": "cancelled"}
    assert (await counts(coordinator))[subjects.DEAD_STREAM] == 0


async def test_a_party_that_may_not_read_the_queue_stores_again_what_is_gone_or_was_queued_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    denied = "$JS.API.STREAM.MSG.GET.>"
    granted = {"main": all_but(denied), "blind": all_but(denied, "$JS.API.STREAM.INFO.AGENT_TASKS")}
    async with restricted_bus(tmp_path, granted) as bus:
        async with connect(bus.url("main")) as main, connect(bus.url("blind")) as blind:
            for number in range(2):
                await main.publish("code", "hi", task_id=f"job{number}")
            await delete(bus.admin, 1)
            assert not (await main.publish("code", "hi", task_id="job0")).stored_again, "one of the two is left"
            monkeypatch.setattr(publish, "LOST_AFTER_S", 0.0)
            assert not (await blind.publish("code", "hi", task_id="job0")).stored_again
            assert (await main.publish("code", "hi", task_id="job0")).stored_again
            monkeypatch.undo()
            await purge(bus.admin)
            assert (await main.publish("code", "hi", task_id="job1")).stored_again, "none is left"
        assert (await counts(bus.admin))[subjects.TASKS_STREAM] == 1


async def test_publishing_again_says_that_a_message_was_stored_again(server: NatsServer, coordinator: Coordinator):
    args = ("task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "test", "--task-id", "job", "x")
    assert (await run_cli(*args)).code == 0
    await purge(coordinator)
    again = await run_cli(*args)
    assert "the task job was published before, and its message is stored again; it is queued" in again.err


# -- naming it, and settling it ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("named_at_once")
async def test_a_lost_task_is_named_and_one_that_waits_is_not(coordinator: Coordinator):
    for number in range(3):
        await coordinator.publish("code", "hi", task_id=f"job{number}")
    await delete(coordinator, 2)
    statuses = [await coordinator.task(f"job{number}").status() for number in range(3)]
    assert [status.loss for status in statuses] == [None, Loss.PROVED, None]
    assert [status.state for status in statuses] == ["queued"] * 3, "a publication may be under way"
    assert "publish it again with its id" in statuses[1].to_json()["lost"]
    assert [status.task_id for status in await coordinator.lost_tasks()] == ["job1"]
    assert await coordinator.lost_tasks("doc") == []
    waited = await coordinator.wait(["job0", "job1"], timeout_s=0.1)
    assert {name: status.loss for name, status in waited.pending.items()} == {"job0": None, "job1": Loss.PROVED}
    await coordinator.publish("code", "hi", task_id="job1")
    assert await coordinator.lost_tasks() == []


@pytest.mark.usefixtures("at_once")
async def test_a_lost_task_is_settled_as_failed_once_no_publication_can_be_under_way(coordinator: Coordinator):
    await coordinator.publish("code", "hi", task_id="waits")
    await coordinator.publish("code", "hi", task_id="lost")
    await coordinator.publish("code", "hi", task_id="cancelled")
    await coordinator.task("cancelled").cancel()
    for seq in (2, 3):
        await delete(coordinator, seq)
    assert (await coordinator.task("waits").status()).state == "queued"
    status = await coordinator.task("lost").status()
    assert (status.state, status.loss) == ("failed", Loss.PROVED)
    assert status.result is not None
    assert str(status.result.error).startswith("expired: the queue lost the message")
    assert (await coordinator.task("lost").status()).state == "failed"
    assert (await coordinator.task("cancelled").status()).record.entry.terminal
    messages = {message["task"]["id"]: message["status"] for message in await result_messages(coordinator)}
    assert messages == {"lost": "failed", "cancelled": "cancelled"}


@pytest.mark.usefixtures("at_once")
async def test_a_wait_ends_with_the_settlement_of_a_lost_task(coordinator: Coordinator):
    await coordinator.publish("code", "hi", task_id="job")
    await purge(coordinator)
    waited = await coordinator.wait(["job"], timeout_s=30)
    assert waited.settled["job"].state == "failed"


def during_the_walk(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[Any]]) -> None:
    """Let something happen once, when the walk has come to the end of the queue."""
    real, waiting = Bus.next_at_the_leader, [happens]

    async def read(bus: Bus, stream: str, subject: str, seq: int) -> StoredMessage | None:
        found = await real(bus, stream, subject, seq)
        if found is None and waiting:
            await waiting.pop()()
        return found

    monkeypatch.setattr(Bus, "next_at_the_leader", read)


@pytest.mark.usefixtures("at_once")
async def test_a_task_that_is_stored_again_during_the_walk_is_not_settled(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await coordinator.publish("code", "hi", task_id="purged")
    await purge(coordinator)
    async with connect(server.url) as other:
        during_the_walk(monkeypatch, lambda: other.publish("code", "hi", task_id="purged"))
        status = await coordinator.task("purged").status()
    assert (status.state, status.loss) == ("queued", None)
    assert await result_messages(coordinator) == []


@pytest.mark.usefixtures("at_once")
async def test_a_task_that_its_publisher_completes_during_the_walk_is_not_settled(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    """Its first message is stored: the entry must change all the same, or the reader could not know."""
    task = new_task(to="code", content="hi", task_type="task", task_id="half")
    await Ledger(coordinator.bus).create(TaskKey("code", "half"), queued(task, "main", "nonce"))
    async with connect(server.url) as other:
        during_the_walk(monkeypatch, lambda: other.publish("code", "hi", task_id="half"))
        status = await coordinator.task("half").status()
    assert (status.state, status.loss) == ("queued", None)
    assert (await counts(coordinator))[subjects.TASKS_STREAM] == 1


@pytest.mark.usefixtures("at_once")
async def test_a_task_of_which_a_dead_letter_is_queued_again_during_the_walk_is_not_settled(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await coordinator.publish("code", "hi", task_id="job")
    message = await message_of(coordinator)
    await coordinator.bus.store(subjects.dead("code"), message.data, headers={"Bus-Origin": "AGENT_TASKS.1"})
    await purge(coordinator)
    async with connect(server.url) as other:
        during_the_walk(monkeypatch, lambda: dead_letters.requeue(other.bus, 1))
        status = await coordinator.task("job").status()
    assert (status.state, status.loss) == ("queued", None)
    assert await result_messages(coordinator) == []
    assert (await counts(coordinator))[subjects.TASKS_STREAM] == 1


@pytest.mark.usefixtures("at_once")
async def test_who_may_not_write_the_ledger_is_told_that_the_task_of_a_dead_letter_was_settled_as_lost_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with restricted_bus(tmp_path, {"requeuer": all_but("$KV.AGENT_STATE.>")}) as bus:
        await bus.admin.publish("code", "hi", task_id="job")
        message = await message_of(bus.admin)
        await bus.admin.bus.store(subjects.dead("code"), message.data, headers={"Bus-Origin": "AGENT_TASKS.1"})
        await purge(bus.admin)
        real = Bus.store

        async def store(one: Bus, subject: str, *args: Any, **more: Any) -> Stored:
            if subject == "agent.code.tasks":
                assert (await bus.admin.task("job").status()).state == "failed"
            return await real(one, subject, *args, **more)

        async with connect(bus.url("requeuer")) as requeuer:
            monkeypatch.setattr(Bus, "store", store)
            with pytest.raises(RequeueError, match=r"is the task job, which has its result \(failed\)"):
                await dead_letters.requeue(requeuer.bus, 1)
        assert len(await result_messages(bus.admin)) == 1
        assert (await counts(bus.admin))[subjects.DEAD_STREAM] == 1


@pytest.mark.usefixtures("at_once")
async def test_a_task_whose_message_a_second_publisher_sees_during_the_walk_is_not_settled(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    """The first has stored it and dies before it writes the entry, as it is meant to."""
    task = new_task(to="code", content="hi", task_type="task", task_id="half")
    await Ledger(coordinator.bus).create(TaskKey("code", "half"), queued(task, "main", "nonce"))
    await coordinator.publish("code", "hi", task_id="other")
    await purge(coordinator)  # so the walk has nothing to read but its end

    async def both_publish() -> None:
        key, data = TaskKey("code", "half"), encode(task.to_json())
        await other.bus.store(subjects.tasks_of("code", "main"), data, msg_id=task_msg_id(key, "nonce"))
        again = await other.publish("code", "hi", task_id="half")
        assert (again.known, again.stored_again) == (True, False)

    async with connect(server.url) as other:
        during_the_walk(monkeypatch, both_publish)
        status = await coordinator.task("half").status()
    assert (status.state, status.loss) == ("queued", None)
    assert (await counts(coordinator))[subjects.TASKS_STREAM] == 1


@pytest.mark.usefixtures("at_once")
async def test_a_task_that_a_worker_has_settled_during_the_walk_keeps_its_result(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await coordinator.publish("code", "say:mine", task_id="job")
    record = await entry_of(coordinator, "job")
    async with worker(worker_toml(tmp_path, server.url)):
        await settled(coordinator, "job")
        await acknowledged(coordinator)
    # As a replica of the ledger says that lags behind: the message is gone, and the entry is still the old one.
    [status] = await lost_tasks.look_after(coordinator.bus, [record])
    assert (status.state, status.loss) == ("completed", None)
    assert len(await result_messages(coordinator)) == 1


@pytest.mark.usefixtures("at_once")
async def test_a_queue_that_is_too_long_to_be_read_in_time_proves_nothing(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await coordinator.publish_to([f"a{number}" for number in range(5)], "hi", task_id="job")
    await coordinator.publish("code", "hi", task_id="job")
    await purge(coordinator)
    monkeypatch.setattr(lost_tasks, "_LOOK_S", 0.0)
    assert (await coordinator.task("job", agent="code").status()).loss is None
    assert (await coordinator.task("job", agent="code").status()).state == "queued"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("role", ["member", "viewer"])
async def test_who_may_not_read_the_queue_says_that_a_task_may_be_lost_and_settles_nothing(
    server: NatsServer, coordinator: Coordinator, role: Role
):
    async with connect(server.url) as connected, connect(server.url) as looking:
        alice = Coordinator(connected.bus, "alice", "member")
        reader = Coordinator(looking.bus, "alice" if role == "member" else "eve", role)
        for number in range(2):
            await alice.publish("code", "hi", task_id=f"job{number}")
        await coordinator.publish("code", "hi", task_id="of-main")
        assert await reader.lost_tasks() == []
        await delete(coordinator, 1)
        listed = await reader.lost_tasks()
        assert {(one.task_id, one.loss, one.state) for one in listed} == {
            ("job0", Loss.POSSIBLE, "queued"),
            ("job1", Loss.POSSIBLE, "queued"),
        }, "one of the two has no message"
        await delete(coordinator, 2)
        status = await reader.task("job1", owner="alice").status()
        assert (status.state, status.loss) == ("queued", Loss.POSSIBLE)
        assert "may be lost" in status.to_json()["lost"]
        assert (await reader.wait(["job1"], timeout_s=0.1)).pending["job1"].loss is Loss.POSSIBLE
    assert (await coordinator.lost_tasks())[0].state == "failed", "an operator can tell"


@pytest.mark.usefixtures("named_at_once")
async def test_what_the_server_refused_once_is_not_asked_for_again(tmp_path: Path):
    log = tmp_path / "server.log"
    async with restricted_bus(tmp_path, {"main": all_but("$JS.API.STREAM.MSG.GET.>")}, log=log) as bus:
        async with connect(bus.url("main")) as main:
            await main.publish("code", "hi", task_id="job")
            for _ in range(3):
                await main.task("job").status()
                await main.lost_tasks()
                await main.publish("code", "hi", task_id="job")
        assert log.read_text(encoding="utf-8").count("Publish Violation") == 1


@pytest.mark.usefixtures("named_at_once")
async def test_the_checks_of_an_operator_name_a_lost_task_and_change_nothing(
    server: NatsServer, coordinator: Coordinator
):
    await coordinator.publish("code", "hi", task_id="job")
    await purge(coordinator)
    finding = the_finding(await doctor_in_process(server.url), "lost tasks")
    assert (finding["verdict"], "does not hold code/job" in finding["text"]) == ("warning", True)
    assert "publish each again with its id" in finding["fix"]
    assert (await coordinator.task("job").status()).state == "queued"


async def test_the_list_of_agents_names_a_lost_task(server: NatsServer, coordinator: Coordinator):
    await coordinator.publish("code", "hi", task_id="job")
    await purge(coordinator)

    async def named() -> bool:
        return "warning: code/job is lost" in (await run_cli("agent", "list", "--nats-url", server.url)).err

    await eventually(named, "the task has been queued for some seconds")
