"""Cancelling: a queued task never starts, a running one is gone within two seconds, and the result says who and why."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.errors import AgentBusError, TaskNotFoundError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import CancelRequest, Record
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from support.harness import eventually, run_cli, worker, worker_toml
from support.jobs import (
    acknowledged,
    counts,
    error,
    gone,
    outcome,
    pid_from,
    publish,
    ran_nothing,
    result_messages,
    settled,
    short_lease,
    text,
)

TREE_GONE_WITHIN_S = 8.0
"""What is promised is two seconds: one of grace between SIGTERM and SIGKILL, and the way there and back. The rest is
for machines that are busy with something else; it stays far below the grace that the configuration gives."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the process group alone is ended")


async def state_for_readers(server: NatsServer, bus: Coordinator, task_id: str) -> set[str]:
    """What every kind of reader says of a task."""
    async with connect(server.url) as another:
        waited = await another.wait([task_id], timeout_s=0)
        seen = {(await bus.task(task_id).status()).state, (await another.task(task_id).status()).state}
    seen.update(status.state for status in waited.settled.values())
    seen.update(f"pending as {status.state}" for status in waited.pending.values())
    shown = await run_cli("task", "get", "--nats-url", server.url, task_id)
    return {*seen, json.loads(shown.out)["state"]}


# -- queued -----------------------------------------------------------------------------------------------------


async def test_a_queued_task_is_cancelled_for_every_reader_at_once_and_never_starts(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran = tmp_path / "ran"
    task_id = await publish(coordinator, f"touch:{ran}")
    found = await coordinator.task(task_id).cancel("not needed")
    assert (found.state, found.settled) == ("cancelled", True)
    assert await state_for_readers(server, coordinator, task_id) == {"cancelled"}
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await acknowledged(coordinator)
        assert ran_nothing(child)
    [result] = await result_messages(coordinator)
    assert (result["status"], result["error"]) == ("cancelled", "cancelled by agent-main: not needed")
    assert result["task"]["id"] == task_id
    assert result["task"]["payload"]["content"] == f"touch:{ran}"
    assert (await coordinator.task(task_id).status()).record.entry.result == result
    assert not ran.exists()


async def test_a_task_that_waits_behind_another_one_is_cancelled_without_being_run(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran = tmp_path / "ran"
    async with worker(worker_toml(tmp_path, server.url)):
        first = await publish(coordinator, f"pid:{tmp_path}/pid sleep:1000")
        await pid_from(tmp_path / "pid")
        second = await publish(coordinator, f"touch:{ran}")
        assert (await coordinator.task(second).cancel()).state == "cancelled"
        await coordinator.task(first).cancel()
        await acknowledged(coordinator)
    assert not ran.exists()
    assert sorted(result["task"]["id"] for result in await result_messages(coordinator)) == sorted([first, second])


# -- running ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "deeds",
    [
        "pid:{at}/me",
        "stubborn pid:{at}/me",
        "group:{at}/child pid:{at}/me",
        "stubborn group:{at}/child pid:{at}/me",
        pytest.param("session:{at}/child pid:{at}/me", marks=linux_only),
        pytest.param("stubborn session:{at}/child daemon:{at}/daemon bare:{at}/bare pid:{at}/me", marks=linux_only),
    ],
)
async def test_a_running_task_is_gone_with_all_it_started_and_the_result_names_who_and_why(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, deeds: str
):
    config = worker_toml(tmp_path, server.url, worker={"kill_grace_seconds": 30})
    async with worker(config):
        task_id = await publish(coordinator, f"say:half {deeds.format(at=tmp_path)} sleep:1000")
        await pid_from(tmp_path / "me")
        pids = [
            int(path.read_text(encoding="utf-8"))
            for path in tmp_path.iterdir()
            if path.name in ("me", "child", "daemon", "bare")
        ]
        loop = asyncio.get_running_loop()
        start = loop.time()
        found = await coordinator.task(task_id).cancel("the branch was merged")
        # The worker is as fast as the answer at times.
        assert found.state in {"working", "cancelled"}
        await gone(*pids, timeout_s=TREE_GONE_WITHIN_S)
        print(f"the tree of {deeds!r} was gone {loop.time() - start:.2f} s after the call")
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert status.state == "cancelled"
    assert error(status) == "cancelled by agent-main: the branch was merged"
    assert text(status) == "half\n"
    assert [result["id"] for result in await result_messages(coordinator)] == [status.record.entry.result_id]


async def test_the_command_line_cancels_with_a_reason(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with worker(worker_toml(tmp_path, server.url)):
        task_id = await publish(coordinator, f"pid:{tmp_path}/me sleep:1000")
        pid = await pid_from(tmp_path / "me")
        ran = await run_cli("task", "cancel", task_id, "--reason", "too dear", "--nats-url", server.url)
        assert ran.code == 0, ran.err
        shown = json.loads(ran.out)
        assert shown["state"] in {"working", "cancelled"}
        assert (shown["cancel"]["by"], shown["cancel"]["reason"]) == (
            "agent-main",
            "too dear",
        )
        await gone(pid, timeout_s=TREE_GONE_WITHIN_S)
        assert error(await settled(coordinator, task_id)) == "cancelled by agent-main: too dear"


async def test_cancelling_again_and_by_two_at_once_changes_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)), connect(server.url) as other_bus:
        other = Coordinator(other_bus.bus, "boss", "operator")
        task_id = await publish(coordinator, f"stubborn pid:{tmp_path}/me sleep:1000")
        await pid_from(tmp_path / "me")
        both = await asyncio.gather(
            coordinator.task(task_id).cancel("mine"), other.task(task_id).cancel("theirs"), return_exceptions=True
        )
        again = await coordinator.task(task_id).cancel("again")
        answers = [status for status in [*both, again] if not isinstance(status, BaseException)]
        assert len(answers) == 3, both
        request = answers[0].record.entry.cancel
        assert all(status.record.entry.cancel == request for status in answers)
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        assert (await other.task(task_id).cancel()).record.revision == status.record.revision
    assert request is not None
    assert error(status) == f"cancelled by {request.by}: {request.reason}"
    assert (request.by, request.reason) in {("agent-main", "mine"), ("agent-boss", "theirs")}
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


@pytest.mark.parametrize(("content", "state"), [("say:done", "completed"), ("exit:3", "failed")])
async def test_too_late_is_answered_with_the_state_it_found_and_changes_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, content: str, state: str
):
    async with worker(worker_toml(tmp_path, server.url)):
        status = await outcome(coordinator, content)
        await acknowledged(coordinator)
    late = await coordinator.task(status.task_id).cancel("too late")
    assert (late.state, late.record.revision) == (state, status.record.revision)
    assert late.record.entry.cancel is None
    ran = await run_cli("task", "cancel", status.task_id, "--nats-url", server.url)
    assert ran.code == 0
    assert json.loads(ran.out)["state"] == state
    assert ran.err == f"too late: the task {status.task_id} is {state}\n"
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


async def test_a_request_whose_message_is_lost_is_seen_at_the_next_renewal(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1.5)
    async with worker(worker_toml(tmp_path, server.url)):
        task_id = await publish(coordinator, f"pid:{tmp_path}/me sleep:1000")
        pid = await pid_from(tmp_path / "me")
        ledger = Ledger(coordinator.bus)

        async def requested() -> bool:
            found = await ledger.read(TaskKey("code", task_id))
            assert isinstance(found, Record)
            entry = found.entry.model_copy(update={"cancel": CancelRequest(by="agent-ops", reason="by hand", at=now())})
            try:
                await ledger.write(TaskKey("code", task_id), entry, revision=found.revision)
            except AgentBusError:
                return False  # it was just renewed
            return True

        await eventually(requested, "the request is in the ledger")
        await gone(pid)
        assert error(await settled(coordinator, task_id)) == "cancelled by agent-ops: by hand"
        await acknowledged(coordinator)
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


@pytest.mark.parametrize(
    "message", [b"", b"\xff", b"[]", b'"x"', b"{}", b'{"cancel": 7}', b'{"cancel": "task-x"}', b"id"]
)
async def test_a_control_message_proves_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, message: bytes
):
    async with worker(worker_toml(tmp_path, server.url)):
        task_id = await publish(coordinator, f"pid:{tmp_path}/me sleep:0.5 say:done")
        await pid_from(tmp_path / "me")
        forged = encode({"cancel": task_id}) if message == b"its own id" else message
        await coordinator.bus.publish(subjects.control("code"), forged)
        status = await settled(coordinator, task_id)
    assert (status.state, text(status)) == ("completed", "done\n")


async def test_a_task_whose_owner_was_killed_is_cancelled_without_another_run(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    ran = tmp_path / "ran"
    task_id = await publish(coordinator, f"touch:{ran} sleep:2")
    async with worker(worker_toml(tmp_path, server.url)) as first:
        await eventually(ran.exists, "the first worker runs it")
        first.kill()
    found = await coordinator.task(task_id).cancel("its machine is gone")
    assert found.state == "working"
    async with worker(worker_toml(tmp_path, server.url)) as second:
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        assert ran_nothing(second)
    assert (status.state, error(status)) == ("cancelled", "cancelled by agent-main: its machine is gone")
    assert ran.read_text(encoding="utf-8") == "ran\n"
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


# -- and retries ------------------------------------------------------------------------------------------------


async def test_a_cancelled_task_is_not_tried_again_though_its_end_is_a_reason_to(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    retry = {"retry_on": ["exit:7", "timeout", "lost"], "retry_backoff_seconds": 0, "max_attempts": 5}
    script = f"trap 'exit 7' TERM; echo $$ > {tmp_path}/me; echo run >> {tmp_path}/runs; while :; do sleep 0.05; done"
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", script, "agent", "{input}"], worker=retry)
    async with worker(config):
        task_id = await publish(coordinator, "x")
        await pid_from(tmp_path / "me")
        await coordinator.task(task_id).cancel()
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert (status.state, error(status)) == ("cancelled", "cancelled by agent-main")
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "run\n"


async def test_a_task_that_waits_for_its_next_attempt_is_cancelled_at_once_and_not_run_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    retry = {"retry_on": ["exit:3"], "retry_backoff_seconds": 4}
    ran = tmp_path / "ran"
    async with worker(worker_toml(tmp_path, server.url, worker=retry)) as child:
        task_id = await publish(coordinator, f"touch:{ran} exit:3")
        await child.until_said("trying again")
        await coordinator.task(task_id).cancel("once is enough")
        assert await state_for_readers(server, coordinator, task_id) == {"cancelled"}
        await acknowledged(coordinator)
    [result] = await result_messages(coordinator)
    assert (result["status"], result["error"]) == ("cancelled", "cancelled by agent-main: once is enough")
    assert ran.read_text(encoding="utf-8") == "ran\n"


async def test_a_cancelled_task_can_be_published_anew_once_it_has_its_result(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    task_id = await publish(coordinator, "say:after_all")
    await coordinator.task(task_id).cancel()
    with pytest.raises(AgentBusError, match="is cancelled; only a task that has its result"):
        await coordinator.task(task_id).retry()
    async with worker(worker_toml(tmp_path, server.url)):
        await acknowledged(coordinator)
        again = await coordinator.task(task_id).retry()
        assert text(await settled(coordinator, again.id)) == "after all\n"


async def test_publishing_again_under_the_id_of_a_cancelled_task_does_not_bring_it_back(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran = tmp_path / "ran"
    await publish(coordinator, f"touch:{ran}", task_id="job")
    await coordinator.task("job").cancel()
    await publish(coordinator, f"touch:{ran}", task_id="job")
    async with worker(worker_toml(tmp_path, server.url)):
        await acknowledged(coordinator)
    assert (await coordinator.task("job").status()).state == "cancelled"
    assert not ran.exists()
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


# -- unknown ----------------------------------------------------------------------------------------------------


async def test_an_unknown_task_cannot_be_cancelled(server: NatsServer, coordinator: Coordinator):
    with pytest.raises(TaskNotFoundError, match="no task task-never"):
        await coordinator.task("task-never").cancel()
    known = await publish(coordinator, "x")
    with pytest.raises(TaskNotFoundError, match="of the agent doc"):
        await coordinator.task(known, agent="doc").cancel()
    ran = await run_cli("task", "cancel", "task-never", "--nats-url", server.url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: no task task-never is known on this bus")
    assert len(ran.err.splitlines()) == 1


async def test_a_task_id_that_several_agents_have_needs_the_agent(server: NatsServer, coordinator: Coordinator):
    for agent in ("code", "doc"):
        await publish(coordinator, "x", agent=agent, task_id="same")
    with pytest.raises(TaskNotFoundError, match="name the agent"):
        await coordinator.task("same").cancel()
    assert (await coordinator.task("same", agent="agent-doc").cancel()).state == "cancelled"
    assert (await coordinator.task("same", agent="code").status()).state == "queued"
