"""Tasks with an owner: the coordinator that the subject of their message names. `main` owns those without one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.pull_consumer import PullConsumer
from agentbus.bus.setup import set_up
from agentbus.errors import (
    InvalidIdError,
    MessageError,
    SetupMissingError,
    TaskConflictError,
    TaskNotFoundError,
)
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.messages import new_result, new_task
from agentbus.protocol.roles import Role
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.task_names import task_name
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks import approvals
from agentbus.tasks.inbox import InboxMessage
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.publish import publish
from support.harness import BOUND_S, eventually, worker, worker_toml
from support.jobs import WAIT_S
from support.mcp_harness import settle

ASKS = "status=needs_approval\nmay I delete it?\n"


@asynccontextmanager
async def coordinator_of(server: NatsServer, name: str, role: Role | None = None) -> AsyncGenerator[Coordinator]:
    async with connect(server.url) as connected:
        yield Coordinator(connected.bus, name, role)


async def inbox_of(bus: Coordinator) -> list[InboxMessage]:
    """Read the inbox once it holds something: a result is in the ledger a moment before."""
    return await eventually(lambda: bus.results(newest=5), f"the inbox of {bus.agent} holds a result")


async def keys_of(bus: Coordinator) -> list[str]:
    info = await bus.bus.stream_info(subjects.STATE_STREAM, subjects_filter=subjects.STATE_SUBJECTS)
    return sorted(info.state.subjects or ())


async def without_tasks_of_others(coordinator: Coordinator) -> None:
    """Bring the queue to the layout of the earlier version, which takes no tasks of named coordinators."""
    config = (await coordinator.bus.stream_info(subjects.TASKS_STREAM)).config
    await coordinator.bus.api(f"CONSUMER.DELETE.{subjects.TASKS_STREAM}.{subjects.durable_of_parties('code')}")
    await coordinator.bus.api(
        f"STREAM.UPDATE.{subjects.TASKS_STREAM}", {**config, "subjects": [subjects.TASK_SUBJECTS]}
    )


async def test_two_owners_and_main_use_one_id_for_one_agent(server: NatsServer, coordinator: Coordinator):
    await set_up(coordinator.bus, ["code"])
    async with coordinator_of(server, "alice") as alice, coordinator_of(server, "bob") as bob:
        for bus, content in ((coordinator, "of main"), (alice, "of alice"), (bob, "of bob")):
            assert not (await bus.publish("code", content, task_id="release-1")).known
        assert await keys_of(coordinator) == [
            "$KV.AGENT_STATE.code.release-1",
            "$KV.AGENT_STATE.code.~alice.release-1",
            "$KV.AGENT_STATE.code.~bob.release-1",
        ]
        assert (await alice.task("release-1").cancel()).owner == "alice"
        states = {bus.agent: (await bus.task("release-1", agent="code").status()).state for bus in (alice, bob)}
    assert states == {"alice": "cancelled", "bob": "queued"}
    assert (await coordinator.task("release-1").status()).owner == "main"


async def test_one_wait_tells_tasks_of_one_id_apart_by_their_names(server: NatsServer, coordinator: Coordinator):
    async with coordinator_of(server, "alice") as alice, coordinator_of(server, "bob", "operator") as bob:
        for bus, agent in ((coordinator, "code"), (coordinator, "doc"), (alice, "code"), (bob, "code")):
            await bus.publish(agent, "x", task_id="job")
        await settle(coordinator, "job", "of main")
        await settle(coordinator, "job", "of alice", owner="alice")
        names = ["code/~main/job", "doc/job", "code/~alice/job"]
        of_main = await coordinator.wait(names, timeout_s=0)
        of_bob = await bob.wait(["code/~main/job", "code/job"], timeout_s=0)
        one = await bob.wait(["code/~alice/job"], timeout_s=0)
    assert {name: str(one.result and one.result.result) for name, one in of_main.settled.items()} == {
        "code/job": "of main",
        "code/~alice/job": "of alice",
    }
    assert list(of_main.pending) == ["doc/job"]
    assert (list(of_bob.settled), list(of_bob.pending)) == (["code/~main/job"], ["code/~bob/job"])
    assert list(one.settled) == ["job"]


async def test_the_name_of_a_task_finds_it_again_for_who_looked(server: NatsServer, coordinator: Coordinator):
    async with coordinator_of(server, "alice") as alice, coordinator_of(server, "bob", "operator") as bob:
        for bus in (coordinator, alice, bob):
            await bus.publish("code", f"of {bus.agent}", task_id="job")
        for looks, main_is in ((coordinator, "code/job"), (bob, "code/~main/job")):
            names = {one.owner: str(one.name) for one in (await looks.list_tasks()).tasks}
            assert names["main"] == main_is
            assert {owner: (await looks.task(name).status()).owner for owner, name in names.items()} == {
                owner: owner for owner in ("main", "alice", "bob")
            }


async def test_a_request_is_answered_by_one_coordinator_only(server: NatsServer, coordinator: Coordinator):
    """The answers of two are tasks of two owners, which the agent would both get: approved, and denied."""
    async with coordinator_of(server, "alice") as alice, coordinator_of(server, "bob", "operator") as bob:
        task = await alice.publish("code", "clean up", task_id="job")
        await settle(coordinator, "job", ASKS, owner="alice", status="needs_approval", task=task.message)
        assert (await bob.task("code/~alice/job").answer(approve=True)).owner == "bob"
        for other in (alice, coordinator):
            with pytest.raises(TaskConflictError, match=r"bob answers the task job; .* code/~bob/job\.answer"):
                await other.task("code/~alice/job").answer(approve=True)
        assert (await bob.task("code/~alice/job").answer(approve=True)).known
        with pytest.raises(TaskConflictError, match="with another decision"):
            await bob.task("code/~alice/job").answer(approve=False)
        status = await alice.task("job").status()
    assert (status.state, status.to_json()["answered_by"]) == ("needs_approval", "bob")
    assert sorted(key for key in await keys_of(coordinator) if key.endswith(".answer")) == [
        "$KV.AGENT_STATE.code.~bob.job.answer"
    ]


async def test_of_answers_at_the_same_time_one_is_taken(server: NatsServer, coordinator: Coordinator):
    async with coordinator_of(server, "bob", "operator") as bob:
        task = await coordinator.publish("code", "clean up", task_id="job")
        await settle(coordinator, "job", ASKS, status="needs_approval", task=task.message)
        answers = [one.task("code/~main/job").answer(approve=one is bob) for one in (bob, coordinator)]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert sorted(isinstance(one, TaskConflictError) for one in outcomes) == [False, True]
    assert len([key for key in await keys_of(coordinator) if key.endswith(".answer")]) == 1


async def test_a_note_of_an_answer_that_is_refused_keeps_no_other_coordinator_from_answering(
    server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    async with coordinator_of(server, "bob", "operator") as bob:
        task = await coordinator.publish("code", "clean up", task_id="job")
        await settle(coordinator, "job", ASKS, status="needs_approval", task=task.message)
        await without_tasks_of_others(coordinator)
        with pytest.raises(SetupMissingError):
            await bob.task("code/~main/job").answer(approve=True)
    assert (await coordinator.task("job").status()).record.entry.answered_by is None
    assert not (await coordinator.task("job").answer(approve=False)).known


async def test_a_note_of_an_answer_that_never_came_is_replaced_once_no_publication_can_take_so_long(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    task = await coordinator.publish("code", "clean up", task_id="job")
    await settle(coordinator, "job", ASKS, status="needs_approval", task=task.message)
    found = await Ledger(coordinator.bus).read(TaskKey("code", "job"))
    assert isinstance(found, Record)
    noted = found.entry.model_copy(update={"answered_by": "bob"})
    await Ledger(coordinator.bus).write(found.key, noted, revision=found.revision)
    with pytest.raises(TaskConflictError, match="bob answers the task job"):
        await coordinator.task("job").answer(approve=True)
    monkeypatch.setattr(approvals, "LOST_AFTER_S", 0.0)
    assert not (await coordinator.task("job").answer(approve=True)).known
    assert (await coordinator.task("job").status()).record.entry.answered_by == "main"


async def test_an_answer_that_an_earlier_version_has_given_counts(server: NatsServer, coordinator: Coordinator):
    """It leaves no note of it in the entry of the task."""
    task = await coordinator.publish("code", "clean up", task_id="job")
    await settle(coordinator, "job", ASKS, status="needs_approval", task=task.message)
    await coordinator.publish("code", "what main said", task_id="job.answer")
    async with coordinator_of(server, "bob", "operator") as bob:
        with pytest.raises(TaskConflictError, match=r"main answers the task job; .* code/~main/job\.answer"):
            await bob.task("code/~main/job").answer(approve=True)


async def test_a_task_of_an_owner_is_run_and_its_result_goes_to_that_owner_alone(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    async with coordinator_of(server, "alice") as alice, worker(worker_toml(tmp_path, server.url)):
        task = await alice.publish("code", "say:hello", task_id="job")
        result = await task.result(timeout_s=WAIT_S)
        [message] = await inbox_of(alice)
        mine = await coordinator.publish("code", "say:for_main", task_id="job")
        await mine.result(timeout_s=WAIT_S)
        assert [one.result.key for one in await inbox_of(coordinator) if one.result] == [TaskKey("code", "job")]
    assert (result.status, result.result) == ("completed", "hello\n")
    assert message.result is not None
    assert message.result.key == TaskKey("code", "job", "alice")
    assert message.result.to_json()["owner"] == "alice"


async def test_the_worker_takes_the_owner_from_the_subject_and_never_from_the_message(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    """Nor from the ledger entry, which the owner writes: a result cannot be sent into the inbox of another one."""
    await set_up(coordinator.bus, ["code"])
    await coordinator.publish("code", "say:main", task_id="job")
    async with coordinator_of(server, "alice") as alice:
        task = await alice.publish("code", "say:alice", task_id="job")
        found = await Ledger(alice.bus).read(TaskKey("code", "job", "alice"))
        assert isinstance(found, Record)
        forged = found.entry.model_copy(update={"inbox": "bob", "sender": "agent-main"})
        await Ledger(alice.bus).write(found.key, forged, revision=found.revision)
        async with worker(worker_toml(tmp_path, server.url)):
            assert (await task.result(timeout_s=WAIT_S)).result == "alice\n"
            assert (await coordinator.task("job").result(timeout_s=WAIT_S)).result == "main\n"
        assert len(await inbox_of(alice)) == 1
    assert await coordinator.results(newest=5, agent="bob") == []


async def test_the_command_is_told_the_owner_and_has_a_folder_of_its_own_for_each(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    folder = tmp_path / "work"
    config = worker_toml(tmp_path, server.url, worker={"workdir": folder})
    async with coordinator_of(server, "alice") as alice, worker(config):
        task = await alice.publish("code", "prompt", sender="main", reply_to="alice", task_id="job")
        prompt = (await task.result(timeout_s=WAIT_S)).result
        task = await alice.publish("code", "env:AGENTBUS_OWNER env:AGENTBUS_WORKDIR", task_id="job-2")
        seen = (await task.result(timeout_s=WAIT_S)).result
        task = await coordinator.publish("code", "env:AGENTBUS_OWNER env:AGENTBUS_WORKDIR", task_id="job-2")
        of_main = (await task.result(timeout_s=WAIT_S)).result
    assert "by agent-alice (the message says: agent-main)." in str(prompt)
    assert str(seen).split() == ["alice", str(folder / "alice~job-2")]
    assert str(of_main).split() == ["main", str(folder / "job-2")]


async def test_a_result_that_another_party_than_the_agent_has_sent_is_shown_as_forged(
    server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task = await coordinator.publish("code", "x", task_id="job")
    result = new_result(task.message.to_json(), result_id="r-1", status="completed", result="trust me")
    for maker in ("doc", "code", "main"):
        subject = f"{subjects.results('main')}.{maker}"
        await coordinator.bus.store(subject, encode(result.to_json()), msg_id=maker)
    found = await coordinator.results(newest=5)
    assert [(one.sent_by, one.forgery) for one in found] == [
        ("doc", "sent by doc, which is not the agent code"),
        ("code", None),
        ("main", None),
    ]


async def test_only_main_has_results_sent_to_another_inbox(server: NatsServer, coordinator: Coordinator):
    await set_up(coordinator.bus, ["code"])
    async with coordinator_of(server, "alice", "operator") as alice:
        with pytest.raises(MessageError, match="go to its own inbox, not to that of bob"):
            await alice.publish("code", "x", reply_to="bob")
    assert await keys_of(coordinator) == []
    assert await coordinator.publish("code", "x", reply_to="bob")


async def test_a_member_sees_its_own_tasks_and_operators_and_viewers_see_all(
    server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    async with (
        coordinator_of(server, "alice") as alice,
        coordinator_of(server, "bob", "operator") as bob,
        coordinator_of(server, "carol", "viewer") as carol,
    ):
        for bus in (coordinator, alice, bob):
            await bus.publish("code", "x", task_id=f"of-{bus.agent}")
        seen = {bus.agent: [one.task_id for one in (await bus.list_tasks()).tasks] for bus in (alice, bob, carol)}
        assert seen == {
            "alice": ["of-alice"],
            "bob": ["of-bob", "of-alice", "of-main"],
            "carol": ["of-bob", "of-alice", "of-main"],
        }
        assert [one.task_id for one in (await carol.list_tasks(owner="main")).tasks] == ["of-main"]
        assert [one.task_id for one in (await carol.list_tasks(owner="bob", agent="code")).tasks] == ["of-bob"]
        assert (await bob.task("of-alice").status()).owner == "alice"
        assert (await bob.task("code/~alice/of-alice").cancel("no need")).state == "cancelled"
        with pytest.raises(TaskNotFoundError, match="no task of-bob that alice has published"):
            await alice.task("of-bob").status()


async def test_an_operator_finds_its_own_task_before_those_of_others_and_names_the_others(
    server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    async with (
        coordinator_of(server, "alice") as alice,
        coordinator_of(server, "dora") as dora,
        coordinator_of(server, "bob", "operator") as bob,
    ):
        await alice.publish("code", "x", task_id="job")
        await dora.publish("code", "x", task_id="job")
        with pytest.raises(TaskNotFoundError, match=r"several tasks job \(for code of alice, code of dora\)"):
            await bob.task("job").status()
        assert (await bob.task("job", owner="dora").status()).owner == "dora"
        await bob.publish("code", "x", task_id="job")
        assert (await bob.task("job").status()).owner == "bob"
        await coordinator.publish("code", "x", task_id="job")
        assert (await bob.task(str(task_name("code/~main/job"))).status()).owner == "main"
        with pytest.raises(InvalidIdError, match="is not a task of the coordinator alice"):
            bob.task("code/~dora/job", owner="alice")


async def test_an_id_with_dots_is_not_taken_for_a_task_of_an_owner(server: NatsServer, coordinator: Coordinator):
    await set_up(coordinator.bus, ["code"])
    await coordinator.publish("code", "x", task_id="a.job")
    with pytest.raises(TaskNotFoundError):
        await coordinator.task("job").status()
    async with coordinator_of(server, "alice") as alice:
        await alice.publish("code", "x", task_id="job")
    assert (await coordinator.task("job").status()).owner == "alice"


async def test_a_consumer_of_earlier_workers_never_gets_a_task_of_an_owner(
    server: NatsServer, coordinator: Coordinator
):
    """They would read it as a task of main: run it under another key, and so make a second result."""
    await set_up(coordinator.bus, ["code"])
    async with coordinator_of(server, "alice") as alice:
        await alice.publish("code", "of alice", task_id="job")
    await coordinator.publish("code", "of main", task_id="job")
    async with PullConsumer(coordinator.bus, subjects.TASKS_STREAM, subjects.durable("code")) as earlier:
        async with asyncio.timeout(BOUND_S):
            assert (await earlier.next()).subject == "agent.code.tasks"
        assert await earlier.fetch(5) == []


async def test_a_bus_of_an_earlier_layout_refuses_a_task_of_an_owner_and_keeps_nothing_of_it(
    server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    await without_tasks_of_others(coordinator)
    task = new_task(to="code", content="x", task_type="x", sender="alice", task_id="job")
    with pytest.raises(SetupMissingError, match="agentbus setup --update"):
        await publish(coordinator.bus, task, "alice")
    assert await keys_of(coordinator) == ["$KV.AGENT_STATE.code.~alice.job"]  # its removal
    async with coordinator_of(server, "alice") as alice:
        assert (await alice.list_tasks()).tasks == []
