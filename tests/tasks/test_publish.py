"""Publishing: stored or refused, idempotent by id, and looked up again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, PublishedTask, TaskFailure, connect
from agentbus.bus.setup import set_up
from agentbus.errors import (
    ApiError,
    CorruptEntryError,
    InvalidIdError,
    MessageError,
    PermissionDeniedError,
    SetupMissingError,
    StreamFullError,
    TaskConflictError,
    TaskNotFoundError,
    TooLargeError,
    WrongRevisionError,
)
from agentbus.protocol import subjects
from agentbus.protocol.headers import LEDGER_REVISION, MSG_ID, REVISION
from agentbus.protocol.ledger_entry import CancelRequest, Claim, Entry, NoEntry, Record, queued
from agentbus.protocol.messages import decode_task, new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.publish import max_task_bytes, publish
from support.altered_link import altered_link, refused
from support.harness import BOUND_S
from support.restricted import READ_LEDGER, all_but, only, restricted_bus


async def stored_tasks(bus: Coordinator) -> int:
    return int((await bus.bus.api(f"STREAM.INFO.{subjects.TASKS_STREAM}"))["state"]["messages"])


async def test_a_published_task_lies_on_the_bus_and_in_the_ledger(coordinator: Coordinator):
    task = await coordinator.publish("agent-code", {"pr": 1}, task_type="review", payload_format="json")
    message = await coordinator.bus.last_message(subjects.TASKS_STREAM, "agent.code.tasks")
    record = await Ledger(coordinator.bus).read(TaskKey("code", task.id))
    assert message is not None
    assert isinstance(record, Record)
    assert decode_task(message.data) == task.message
    assert task.message.to_json()["from"] == task.message.to_json()["reply_to"] == "agent-main"
    assert message.headers[MSG_ID] == f"code.{task.id}.{record.entry.publication}"
    assert message.headers[REVISION] == str(record.revision)
    assert LEDGER_REVISION not in message.headers  # an older worker would demand an id that can be guessed
    assert record.entry.state == "queued"
    assert record.headers["Bus-State"] == "queued"


async def test_several_targets_get_a_message_and_an_id_each(coordinator: Coordinator):
    tasks = await coordinator.publish_to(["code", "agent-doc", "code"], "hi", task_type="x", task_id="job.1")
    assert [(task.agent, task.id) for task in tasks] == [("code", "job.1-code"), ("doc", "job.1-doc")]
    assert await stored_tasks(coordinator) == 2


async def test_publishing_again_under_the_same_id_stores_nothing_new(coordinator: Coordinator):
    first = await coordinator.publish("code", "hi", task_type="x", task_id="job")
    again = await coordinator.publish("agent-code", "hi", task_type="x", task_id="job")
    assert first.id == again.id
    assert (first.known, again.known, again.state_at_publish) == (False, True, "queued")
    assert await stored_tasks(coordinator) == 1


async def test_a_task_whose_message_id_another_publisher_has_guessed_is_stored_all_the_same(coordinator: Coordinator):
    for guess in ("code.job", "code.job."):
        await coordinator.bus.store("agent.doc.tasks", b"poison", msg_id=guess)
    task = await coordinator.publish("code", "hi", task_type="x", task_id="job")
    assert not task.known
    message = await coordinator.bus.last_message(subjects.TASKS_STREAM, "agent.code.tasks")
    assert message is not None
    assert decode_task(message.data) == task.message


async def test_a_new_task_that_the_server_takes_for_a_duplicate_is_stored_under_another_id(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    tokens = iter(["known-before", "unknown", "unused"])
    monkeypatch.setattr("agentbus.tasks.publish.random_token", lambda: next(tokens))
    await coordinator.bus.store("agent.doc.tasks", b"poison", msg_id="code.job.known-before")
    task = await coordinator.publish("code", "hi", task_type="x", task_id="job")
    message = await coordinator.bus.last_message(subjects.TASKS_STREAM, "agent.code.tasks")
    assert message is not None
    record = await Ledger(coordinator.bus).read(TaskKey("code", task.id))
    assert isinstance(record, Record)
    assert record.entry.publication == "unknown"
    assert message.headers[MSG_ID] == "code.job.unknown"
    assert message.headers[REVISION] == str(record.revision)
    again = await coordinator.publish("code", "hi", task_type="x", task_id="job")
    assert again.known
    assert await stored_tasks(coordinator) == 2  # the other publisher's, and this one once


async def test_a_task_that_is_refused_under_its_second_id_leaves_no_trace(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("agentbus.tasks.publish.random_token", lambda: "known-before")
    await coordinator.bus.store("agent.doc.tasks", b"poison", msg_id="code.job.known-before")
    tokens = iter(["known-before", "unknown"])
    monkeypatch.setattr("agentbus.tasks.publish.random_token", lambda: next(tokens))
    config = (await coordinator.bus.api(f"STREAM.INFO.{subjects.TASKS_STREAM}"))["config"]
    await coordinator.bus.api(f"STREAM.UPDATE.{subjects.TASKS_STREAM}", {**config, "max_msgs": 1})
    with pytest.raises(StreamFullError):
        await coordinator.publish("code", "hi", task_type="x", task_id="job")
    with pytest.raises(TaskNotFoundError):
        await coordinator.task("job").status()


def before_the_new_id(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let another party change the entry right before its publisher writes its second message id."""
    write, waiting = Ledger.write, [changes]

    async def overtaken(self: Ledger, key: TaskKey, entry: Entry, *, revision: int, **more: Any) -> int:
        if revision and waiting:
            found = await self.read(key)
            assert isinstance(found, Record)
            other = found.entry.model_copy(update=waiting.pop())
            await write(self, key, other, revision=found.revision)
        return await write(self, key, entry, revision=revision, **more)

    monkeypatch.setattr(Ledger, "write", overtaken)


@pytest.fixture
async def taken_id(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first message id that the task gets is one that the server knows; the second is `unknown`."""
    tokens = iter(["known-before", "unknown"])
    monkeypatch.setattr("agentbus.tasks.publish.random_token", lambda: next(tokens))
    await coordinator.bus.store("agent.doc.tasks", b"poison", msg_id="code.job.known-before")


@pytest.mark.usefixtures("taken_id")
async def test_a_task_that_is_cancelled_while_it_gets_another_id_is_queued_with_the_request(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    cancel = CancelRequest(by="agent-main", at="2026-05-18T00:00:00+00:00")
    before_the_new_id(monkeypatch, cancel=cancel)
    await coordinator.publish("code", "hi", task_type="x", task_id="job")
    record = await Ledger(coordinator.bus).read(TaskKey("code", "job"))
    assert isinstance(record, Record)
    assert (record.entry.publication, record.entry.cancel) == ("unknown", cancel)
    message = await coordinator.bus.last_message(subjects.TASKS_STREAM, "agent.code.tasks")
    assert message is not None
    # At the revision of the entry, a worker would claim the task as a new one, and the request would be forgotten.
    assert message.headers[REVISION] == "0"


@pytest.mark.usefixtures("taken_id")
async def test_a_task_that_a_worker_has_claimed_by_then_gets_no_second_message(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    claim = Claim(worker="w", nonce="n", lease_s=30, since="2026-05-18T00:00:00+00:00")
    before_the_new_id(monkeypatch, state="working", claim=claim, attempt=1)
    await coordinator.publish("code", "hi", task_type="x", task_id="job")
    assert (await coordinator.task("job").status()).state == "working"
    assert await coordinator.bus.last_message(subjects.TASKS_STREAM, "agent.code.tasks") is None


@pytest.mark.usefixtures("taken_id")
async def test_a_new_message_id_whose_answer_was_lost_is_read_from_the_ledger(
    server: NatsServer, coordinator: Coordinator
):
    key = subjects.state(TaskKey("code", "job"))
    async with altered_link(server.url) as link, connect(link.url) as main:
        refuse, answers = refused(10071, "wrong last sequence: 2"), list[bytes]()

        def answer(data: bytes) -> bytes | None:
            answers.append(data)
            return refuse(data) if len(answers) == 2 else data

        link.changes[key] = answer
        await main.publish("code", "hi", task_type="x", task_id="job")
    message = await coordinator.bus.last_message(subjects.TASKS_STREAM, "agent.code.tasks")
    assert message is not None
    assert message.headers[MSG_ID] == "code.job.unknown"


async def test_another_content_under_a_known_id_is_refused(coordinator: Coordinator):
    await coordinator.publish("code", "hi", task_type="x", task_id="job")
    with pytest.raises(TaskConflictError, match="belongs to another task of code"):
        await coordinator.publish("code", "ho", task_type="x", task_id="job")
    assert await stored_tasks(coordinator) == 1


async def test_many_publishers_of_one_id_store_one_task(coordinator: Coordinator):
    task = new_task(to="code", content="hi", task_type="x", task_id="job")
    sent = await asyncio.gather(*(publish(coordinator.bus, task, "main") for _ in range(20)))
    assert sum(not one.known for one in sent) == 1
    assert await stored_tasks(coordinator) == 1


async def test_a_task_whose_publisher_died_between_ledger_and_stream_is_sent_again(coordinator: Coordinator):
    task = new_task(to="code", content="hi", task_type="x", task_id="job")
    await Ledger(coordinator.bus).create(TaskKey("code", "job"), queued(task, "main"))
    assert await stored_tasks(coordinator) == 0
    assert (await publish(coordinator.bus, task, "main")).known
    assert await stored_tasks(coordinator) == 1


async def test_a_full_backlog_refuses_the_task_and_leaves_no_trace_of_it(coordinator: Coordinator):
    config = (await coordinator.bus.api(f"STREAM.INFO.{subjects.TASKS_STREAM}"))["config"]
    await coordinator.bus.api(f"STREAM.UPDATE.{subjects.TASKS_STREAM}", {**config, "max_msgs": 1})
    await coordinator.publish("code", "first", task_type="x", task_id="first")
    with pytest.raises(StreamFullError):
        await coordinator.publish("code", "second", task_type="x", task_id="second")
    with pytest.raises(TaskNotFoundError):
        await coordinator.task("second").status()
    await coordinator.bus.api(f"STREAM.UPDATE.{subjects.TASKS_STREAM}", {**config, "max_msgs": -1})
    task = await coordinator.publish("code", "second", task_type="x", task_id="second")
    assert (await coordinator.task(task.id).status()).state == "queued"


async def test_a_missing_task_stream_refuses_the_task_and_leaves_no_trace_of_it(coordinator: Coordinator):
    await coordinator.bus.api(f"STREAM.DELETE.{subjects.TASKS_STREAM}")
    with pytest.raises(SetupMissingError, match="agentbus setup"):
        await coordinator.publish("code", "hi", task_type="x", task_id="job")
    with pytest.raises(TaskNotFoundError):
        await coordinator.task("job").status()


async def test_a_known_task_that_is_refused_when_it_is_published_again_keeps_its_entry(coordinator: Coordinator):
    await coordinator.publish("code", "hi", task_type="x", task_id="job")
    await coordinator.bus.api(f"STREAM.DELETE.{subjects.TASKS_STREAM}")
    with pytest.raises(SetupMissingError):
        await coordinator.publish("code", "hi", task_type="x", task_id="job")
    assert (await coordinator.task("job").status()).state == "queued"
    await set_up(coordinator.bus)
    assert (await coordinator.publish("code", "hi", task_type="x", task_id="job")).known
    assert await stored_tasks(coordinator) == 1


async def test_the_first_refusal_is_raised_if_the_entry_cannot_be_removed_either(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    remove = Ledger.remove

    async def overtaken(self: Ledger, key: TaskKey, *, revision: int) -> None:
        assert (await coordinator.task(key.id).cancel("no need")).state == "cancelled"
        await remove(self, key, revision=revision)

    monkeypatch.setattr(Ledger, "remove", overtaken)
    await coordinator.bus.api(f"STREAM.DELETE.{subjects.TASKS_STREAM}")
    with pytest.raises(SetupMissingError, match=r"agent\.code\.tasks"):
        await coordinator.publish("code", "hi", task_type="x", task_id="job")
    assert (await coordinator.task("job").status()).state == "cancelled"
    await set_up(coordinator.bus)
    again = await coordinator.publish("code", "hi", task_type="x", task_id="job")
    assert (again.known, again.state_at_publish, await stored_tasks(coordinator)) == (True, "queued", 1)


async def test_a_task_too_large_for_the_bus_is_refused_with_its_size_and_the_limit(coordinator: Coordinator):
    limit = max_task_bytes(coordinator.bus)
    with pytest.raises(TooLargeError, match=str(limit)):
        await coordinator.publish("code", "x" * limit, task_type="x", task_id="big")
    with pytest.raises(TaskNotFoundError):
        await coordinator.task("big").status()


@pytest.mark.parametrize("agent", ["*", ">", "a.b", "", "a" * 65, "agent-", "ü"])
async def test_an_agent_id_that_is_no_subject_token_is_refused_before_anything_is_sent(
    coordinator: Coordinator, agent: str
):
    with pytest.raises(InvalidIdError):
        await coordinator.publish(agent, "hi", task_type="x")
    assert await stored_tasks(coordinator) == 0


@pytest.mark.parametrize(
    ("refused", "denied"),
    [
        ("the ledger entry", "$KV.AGENT_STATE.doc.*"),
        ("the task", "agent.doc.tasks"),
    ],
)
async def test_an_agent_that_the_user_may_not_give_tasks_fails_alone_and_leaves_no_trace(
    tmp_path: Path, refused: str, denied: str
):
    async with restricted_bus(tmp_path, {"main": all_but(denied)}, agents=["code", "doc", "ops"]) as bus:
        async with connect(bus.url("main")) as main, asyncio.timeout(BOUND_S):
            code, doc, ops = await main.publish_to(["code", "doc", "ops"], "hello", task_id="job")
            assert isinstance(code, PublishedTask), refused
            assert isinstance(ops, PublishedTask)
            assert [(await task.status()).state for task in (code, ops)] == ["queued", "queued"]
            assert isinstance(doc, TaskFailure)
            assert (doc.id, doc.agent, type(doc.error)) == ("job-doc", "doc", PermissionDeniedError)
            assert "does not allow this user to publish to" in str(doc.error)
            assert "an administrator must grant it" in str(doc.error)
        # The refused task is neither queued nor known; granted later, it is published as if nothing had been.
        assert await stored_tasks(bus.admin) == 2
        with pytest.raises(TaskNotFoundError):
            await bus.admin.task("job-doc").status()
        assert (await bus.admin.list_tasks(agent="doc")).tasks == []
        again = await bus.admin.publish_to(["code", "doc", "ops"], "hello", sender="main", task_id="job")
        assert [isinstance(task, PublishedTask) and task.known for task in again] == [True, False, True]
        assert await stored_tasks(bus.admin) == 3


async def test_a_user_who_may_give_tasks_to_no_agent_gets_a_failure_for_each(tmp_path: Path):
    async with restricted_bus(tmp_path, {"main": only(READ_LEDGER)}) as bus:
        async with connect(bus.url("main")) as main, asyncio.timeout(BOUND_S):
            outcomes = await main.publish_to(["code", "doc"], "hello")
            with pytest.raises(PermissionDeniedError, match="an administrator must grant it"):
                await main.publish("code", "hello")
        assert [(type(one), type(one.error)) for one in outcomes if isinstance(one, TaskFailure)] == [
            (TaskFailure, PermissionDeniedError)
        ] * 2
        assert await stored_tasks(bus.admin) == 0
        assert (await bus.admin.list_tasks()).tasks == []


async def test_no_target_is_an_error(coordinator: Coordinator):
    with pytest.raises(MessageError, match="at least one agent"):
        await coordinator.publish_to([], "hi")


async def test_one_id_at_two_agents_is_looked_up_by_naming_the_agent(coordinator: Coordinator):
    for agent in ("code", "doc"):
        await coordinator.publish(agent, agent, task_type="x", task_id="same.id")
    with pytest.raises(TaskNotFoundError, match="name the agent"):
        await coordinator.task("same.id").status()
    assert (await coordinator.task("same.id", agent="doc").status()).agent == "doc"


async def test_an_unknown_id_is_named(coordinator: Coordinator):
    with pytest.raises(TaskNotFoundError, match="unknown-id"):
        await coordinator.task("unknown-id").status()
    with pytest.raises(TaskNotFoundError, match="unknown-id"):
        await coordinator.wait(["unknown-id"], timeout_s=1)


async def test_a_wait_ends_at_its_time_out_and_says_what_is_pending(coordinator: Coordinator):
    task = await coordinator.publish("code", "hi", task_type="x")
    waited = await coordinator.wait([task.id], timeout_s=0.1)
    assert waited.settled == {}
    assert waited.pending[task.id].state == "queued"


async def test_waiting_for_nothing_returns_at_once(coordinator: Coordinator):
    async with asyncio.timeout(BOUND_S):
        for until in ("any", "all"):
            assert (await coordinator.wait([], until=until)).settled == {}


async def test_an_unreadable_ledger_entry_is_an_error_and_not_a_state(coordinator: Coordinator):
    await coordinator.bus.store(subjects.state(TaskKey("code", "job")), b"", msg_id="x")
    with pytest.raises(CorruptEntryError, match="job"):
        await coordinator.task("job").status()
    with pytest.raises(CorruptEntryError, match="job"):
        await coordinator.publish("code", "hi", task_type="x", task_id="job")


async def test_a_removed_entry_can_be_made_anew(coordinator: Coordinator):
    ledger = Ledger(coordinator.bus)
    entry = queued(new_task(to="code", content="hi", task_type="x"), "main")
    revision = await ledger.create(TaskKey("code", "job"), entry)
    assert isinstance(revision, int)
    await ledger.remove(TaskKey("code", "job"), revision=revision)
    removed = await ledger.read(TaskKey("code", "job"))
    assert isinstance(removed, NoEntry)
    assert removed.revision == revision + 1
    assert isinstance(await ledger.create(TaskKey("code", "job"), entry), int)


async def test_every_change_of_an_entry_is_a_compare_and_set(coordinator: Coordinator):
    ledger = Ledger(coordinator.bus)
    entry = queued(new_task(to="code", content="hi", task_type="x"), "main")
    revision = await ledger.write(TaskKey("code", "job"), entry, revision=0)
    for wrong in (0, revision + 1):
        with pytest.raises(WrongRevisionError):
            await ledger.write(TaskKey("code", "job"), entry, revision=wrong)
    assert await ledger.write(TaskKey("code", "job"), entry, revision=revision) == revision + 1


async def test_a_bucket_cannot_be_emptied_by_a_rollup_or_a_purge(coordinator: Coordinator):
    task = await coordinator.publish("code", "hi", task_type="x")
    with pytest.raises(ApiError):
        await coordinator.bus.store(
            subjects.state(TaskKey("code", "x")), b"{}", msg_id="1", headers={"Nats-Rollup": "all"}
        )
    with pytest.raises(ApiError):
        await coordinator.bus.api(f"STREAM.PURGE.{subjects.STATE_STREAM}")
    assert (await coordinator.task(task.id).status()).state == "queued"
