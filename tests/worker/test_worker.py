"""The worker as a real process: what it does with good tasks, bad tasks, failures and outages."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, TaskStatus, connect
from agentbus.bus.setup import set_up
from agentbus.bus.topology import ACK_WAIT_S
from agentbus.protocol import subjects
from agentbus.protocol.headers import LEDGER_REVISION, MSG_ID, REVISION
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.messages import new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer, run_server, start_server
from agentbus.tasks.ledger import Ledger
from support.free_ports import free_port
from support.harness import alive, eventually, worker, worker_toml
from support.jobs import (
    WAIT_S,
    acknowledged,
    agent_keys,
    counts,
    error,
    outcome,
    ran_nothing,
    settled,
    short_lease,
    text,
)
from support.pace import at_this_pace
from support.supervised import KILL_WORKER

# -- the main job -----------------------------------------------------------------------------------------------


async def test_a_task_is_run_and_its_result_stored_before_the_task_is_acknowledged(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        status = await outcome(coordinator, "say:hello_world")
        await acknowledged(coordinator)
    assert status.state == "completed"
    assert text(status) == "hello world\n"
    [message] = await coordinator.results(newest=5)
    assert message.result is not None
    stored = message.result.to_json()
    assert stored["task"]["id"] == status.task_id
    assert stored["status"] == "completed"
    assert stored == status.record.entry.result
    assert await counts(coordinator) == {"AGENT_TASKS": 0, "AGENT_RESULTS": 1, "AGENT_DEAD": 0}


async def test_the_command_gets_the_prompt_and_its_own_environment(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AGENTBUS_NATS_URL", "nats://user:secret@elsewhere")
    config = worker_toml(tmp_path, server.url, extra_instruction="Be brief.")
    async with worker(config):
        prompt = text(await outcome(coordinator, "prompt", sender="boss", reply_to="main"))
        seen = text(await outcome(coordinator, "env:AGENTBUS_TASK_ID env:AGENTBUS_AGENT_ID env:AGENTBUS_NATS_URL"))
    assert "You are the agent code." in prompt
    assert "agent-boss" in prompt
    assert '"content":"prompt"' in prompt
    assert "needs_approval" in prompt
    assert "Be brief." in prompt
    assert not prompt.startswith("-")
    assert seen.split() == [seen.split()[0], "code"]
    assert seen.startswith("task-")


@pytest.mark.parametrize(
    ("content", "state", "result", "reason"),
    [
        ("exit:3", "failed", "", "exited with status 3"),
        ("say:partial stderr:no_disk exit:1", "failed", "partial\n", "no disk"),
        ("raw", "completed", "caf\ufffd \ufffd\ufffd ok\n", "None"),
        ("approval", "needs_approval", "status=needs_approval\nmay I delete the branch?\n", "None"),
        ("-starts --with=dashes", "completed", "-starts\n--with=dashes\n", "None"),
    ],
)
async def test_the_end_of_the_command_decides_the_status_of_the_result(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, content: str, state: str, result: str, reason: str
):
    async with worker(worker_toml(tmp_path, server.url)):
        status = await outcome(coordinator, content)
    assert status.state == state
    assert text(status) == result
    assert reason in error(status)


async def test_a_command_that_times_out_is_ended_with_its_children(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    timeout_s = at_this_pace(0.5)
    pid_file = tmp_path / "pid"
    command = f"echo $$ > {pid_file}; trap '' TERM; sleep 600 & sleep 600; wait"
    config = worker_toml(
        tmp_path,
        server.url,
        chat_cmd=["sh", "-c", command, "{input}"],
        worker={"task_timeout_seconds": timeout_s, "kill_grace_seconds": 0.2},
    )
    async with worker(config):
        status = await outcome(coordinator, "x")
        pid = int(pid_file.read_text(encoding="utf-8"))
        assert not alive(pid)
    assert f"timed out after {timeout_s:g} s" in error(status)


async def test_a_grandchild_that_holds_the_pipe_open_is_ended_and_delays_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        status = await outcome(coordinator, "fork:600 say:done")
    assert text(status) == "done\n"


async def test_output_beyond_the_limit_is_cut_and_its_size_is_stated(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, worker={"inline_output_bytes": 1024, "max_output_bytes": 2048})
    async with worker(config):
        status = await outcome(coordinator, "bytes:5000000")
    assert status.result is not None
    assert text(status) == "x" * 1024
    note = status.result.to_json()["output"]
    assert (note["truncated"], note["bytes"], note["kept"]) == (True, 5_000_000, 1024)


async def test_a_result_larger_than_the_server_takes_is_cut_to_fit(tmp_path: Path):
    conf = tmp_path / "small.conf"
    conf.write_text(
        f'listen: "127.0.0.1:-1"\nmax_payload: 200KB\njetstream {{ store_dir: "{tmp_path / "s"}" }}\n', encoding="utf-8"
    )
    async with run_server(store=tmp_path / "s", config=conf) as server, connect(server.url) as bus:
        await set_up(bus.bus)
        async with worker(worker_toml(tmp_path, server.url)):
            status = await outcome(bus, "bytes:1000000 " + "x" * 100_000)
    assert status.state == "completed"
    assert status.result is not None
    assert status.result.to_json()["output"]["truncated"] is True


async def test_results_go_to_reply_to_then_to_the_sender_then_to_the_default(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, nats={"default_result_subject": "agent.lost.results"})
    async with worker(config):
        await outcome(coordinator, "say:1", sender="boss", reply_to="clerk")
        await outcome(coordinator, "say:2", sender="boss")
        foreign = {"id": "f", "from": "not an agent id", "to": "code", "type": "task.request", "task_type": "x"}
        await coordinator.bus.store("agent.code.tasks", encode(foreign), msg_id="f")
        await settled_foreign(coordinator, "f")
        for inbox, task_text in (("clerk", "1\n"), ("boss", "2\n"), ("lost", "")):
            [message] = await coordinator.results(newest=1, agent=inbox)
            assert message.result is not None
            assert message.result.result == task_text


async def settled_foreign(bus: Coordinator, task_id: str) -> TaskStatus:
    """Wait for a task that no publisher has entered into the ledger."""

    async def look() -> TaskStatus | None:
        found = await Ledger(bus.bus).read(TaskKey("code", task_id))
        return TaskStatus(found) if isinstance(found, Record) and found.entry.terminal else None

    status = await eventually(look, f"{task_id} is settled")
    assert isinstance(status, TaskStatus)
    return status


async def test_a_task_of_a_foreign_publisher_with_unknown_fields_is_run_and_embedded_whole(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    foreign = {
        "id": "foreign.1",
        "from": "main",
        "to": "code",
        "type": "task.request",
        "task_type": "x",
        "payload": {"fmt": None, "content": "say:ok", "extra": [1, {"deep": None}]},
        "priority": 7,
    }
    await coordinator.bus.publish("agent.code.tasks", json.dumps(foreign, indent=2).encode())
    async with worker(worker_toml(tmp_path, server.url)):
        status = await settled_foreign(coordinator, "foreign.1")
    assert status.result is not None
    assert status.result.task == foreign
    assert text(status) == "ok\n"


# -- what is not a valid task -----------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "id": "bad.1",
    "from": "agent-main",
    "to": "agent-code",
    "type": "task.request",
    "task_type": "x",
    "payload": {"fmt": "text", "content": "say:hi"},
}


@pytest.mark.parametrize(
    ("raw", "reason", "told"),
    [
        (b"not json", "not JSON", False),
        (b"[1]", "an array", False),
        (b"\xff\xfe", "not JSON", False),
        (b"", "not JSON", False),
        (encode({**GOOD, "id": "..bad"}), "task id", True),
        (encode({key: value for key, value in GOOD.items() if key != "task_type"}), "task_type: is missing", True),
        (encode({**GOOD, "task_type": 7}), "task_type", True),
        (encode({**GOOD, "type": "task.result"}), "task.request", True),
        (encode({**GOOD, "payload": {"fmt": "xml", "content": "x"}}), "payload.fmt", True),
        (encode({**GOOD, "payload": {"fmt": "text", "content": {"a": 1}}}), "must be a string", True),
        (encode({**GOOD, "payload": "text"}), "payload", True),
        (encode({**GOOD, "to": "agent-doc"}), "addressed to the agent doc", True),
        (encode({**GOOD, "payload": {"content": "x" * 5000}}), "too large", True),
        (encode({**GOOD, "payload": {"fmt": "json", "content": None}}).replace(b"null", b"[" * 150 + b"]" * 150),
         "nested", True),
    ],
)  # fmt: skip
async def test_an_invalid_task_is_stored_as_a_dead_letter_and_its_sender_gets_a_failed_result(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, raw: bytes, reason: str, told: bool
):
    marker = tmp_path / "ran"
    await coordinator.bus.store("agent.code.tasks", raw, msg_id="odd")
    config = worker_toml(
        tmp_path, server.url, chat_cmd=["sh", "-c", f"touch {marker}", "{input}"], worker={"max_task_bytes": 4096}
    )
    async with worker(config):
        await acknowledged(coordinator)
    dead = await coordinator.bus.last_message(subjects.DEAD_STREAM, subjects.dead("code"))
    assert dead is not None
    assert dead.data == raw
    assert reason in dead.headers["Bus-Reason"]
    assert dead.headers["Bus-Size"] == str(len(raw))
    assert not marker.exists()
    results = await coordinator.results(newest=5)
    if told:
        [message] = results
        assert message.result is not None
        assert message.result.status == "failed"
        assert reason in str(message.result.error)
        assert message.result.task == json.loads(raw)
    else:
        assert results == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Stream": "KV_AGENT_STATE", "Nats-Sequence": "7"},
        {LEDGER_REVISION: "1", MSG_ID: "code.another"},
        {LEDGER_REVISION: "one", MSG_ID: "code.bad.1"},
        {LEDGER_REVISION: "7" * 5000, MSG_ID: "code.bad.1"},
        {REVISION: "1", MSG_ID: "code.bad.1"},
        {REVISION: "1", MSG_ID: "code.another.n0nce"},
        {REVISION: "1", MSG_ID: "code.bad.1.two parts"},
        {REVISION: "one", MSG_ID: "code.bad.1.n0nce"},
    ],
)
async def test_a_relayed_or_mislabelled_message_is_refused_as_a_dead_letter(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, headers: dict[str, str]
):
    await coordinator.bus.store("agent.code.tasks", encode(GOOD), headers=headers)
    async with worker(worker_toml(tmp_path, server.url)):
        await acknowledged(coordinator)
    assert (await counts(coordinator))["AGENT_DEAD"] == 1


async def test_an_unreadable_ledger_entry_sends_the_task_to_the_dead_letters(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await coordinator.bus.store(subjects.state(TaskKey("code", "bad.1")), b"{}", msg_id="x")
    await coordinator.bus.store("agent.code.tasks", encode(GOOD))
    async with worker(worker_toml(tmp_path, server.url)):
        await acknowledged(coordinator)
    assert (await counts(coordinator))["AGENT_DEAD"] == 1


# -- what cannot be run -----------------------------------------------------------------------------------------


async def test_a_worker_whose_command_does_not_exist_does_not_start(tmp_path: Path, server: NatsServer):
    config = worker_toml(tmp_path, server.url, chat_cmd=["no-such-agent", "{input}"])
    async with worker(config, ready=False) as child:
        assert await child.exit_code() == 1
        assert child.said("stopped: chat_cmd: the command 'no-such-agent' was not found")
        assert not child.said("Traceback")


async def test_a_command_that_disappears_for_long_makes_failed_results(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    script = tmp_path / "agent"
    script.write_text("#!/bin/sh\necho hi\n", encoding="utf-8")
    script.chmod(0o755)
    config = worker_toml(tmp_path, server.url, chat_cmd=[str(script), "{input}"])
    async with worker(agent_keys(config, setback_limit_seconds=0.5)):
        script.unlink()
        status = await outcome(coordinator, "x")
    assert (status.state, status.record.entry.attempt) == ("failed", 1)
    assert "does not exist" in error(status)


async def test_a_prompt_too_long_for_an_argument_makes_a_failed_result_that_says_so(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        status = await outcome(coordinator, "x" * 200_000)
    assert status.state == "failed"
    assert "131071" in error(status)


async def test_a_null_character_in_the_task_makes_a_failed_result_or_runs(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        status = await outcome(coordinator, "say:a\0b")
    assert status.settled


# -- dying and coming back --------------------------------------------------------------------------------------


async def test_a_task_of_a_killed_worker_is_taken_over_and_has_one_result(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    ran = tmp_path / "ran"
    task = await coordinator.publish("code", f"touch:{ran} sleep:0.5 say:done", task_type="x")
    async with worker(worker_toml(tmp_path, server.url)) as first:
        await eventually(ran.exists, "the first worker runs it")
        first.kill()
    async with worker(worker_toml(tmp_path, server.url)):
        status = await settled(coordinator, task.id)
        await acknowledged(coordinator)
    assert status.state == "completed"
    assert status.record.entry.attempt == 2
    assert ran.read_text(encoding="utf-8").splitlines() == ["ran", "ran"]
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


async def test_a_task_that_kills_its_workers_fails_after_max_attempts(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1)
    command = ["sh", "-c", f"{KILL_WORKER}; sleep 1", "agent", "{input}"]
    config = worker_toml(tmp_path, server.url, chat_cmd=command, worker={"max_attempts": 2})
    task = await coordinator.publish("code", "x", task_type="x")
    for _ in range(2):
        async with worker(config, ready=False) as child:
            assert await child.exit_code() == -signal.SIGKILL
    async with worker(config):
        status = await settled(coordinator, task.id)
    assert status.state == "failed"
    assert "attempts exhausted: 2 workers" in error(status)


async def test_a_worker_that_renews_its_lease_keeps_a_long_task(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    lease_s = at_this_pace(0.6)
    await short_lease(coordinator, lease_s=lease_s)
    config = worker_toml(tmp_path, server.url)
    ran = tmp_path / "ran"
    async with worker(config), worker(config):
        status = await outcome(coordinator, f"touch:{ran} sleep:{5 * lease_s} say:done")
        await acknowledged(coordinator)
    assert status.record.entry.attempt == 1
    assert ran.read_text(encoding="utf-8").splitlines() == ["ran"]


async def test_a_paused_worker_whose_task_was_taken_over_sends_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1)
    config = worker_toml(tmp_path, server.url)
    ran = tmp_path / "ran"
    task = await coordinator.publish("code", f"touch:{ran} sleep:1 say:done", task_type="x")
    async with worker(config) as first:
        await eventually(ran.exists, "the first worker runs it")
        os.kill(first.pid, signal.SIGSTOP)
        async with worker(config):
            status = await settled(coordinator, task.id)
        os.kill(first.pid, signal.SIGCONT)
        await first.until_said("lost")
    assert status.record.entry.attempt == 2
    assert (await settled(coordinator, task.id)).record.entry.result_id == status.record.entry.result_id
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


async def test_a_committed_result_that_was_not_published_is_published_with_the_next_delivery(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        done = await outcome(coordinator, "say:done")
        await acknowledged(coordinator)
    # As after a crash between commit and publication: the ledger has the result, the inbox and the ack are missing.
    await coordinator.bus.api("STREAM.DELETE.AGENT_RESULTS")
    await set_up(coordinator.bus)
    task = new_task(to="code", content="say:done", task_type="test", task_id=done.task_id)
    await coordinator.bus.store("agent.code.tasks", encode(task.to_json()))
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await acknowledged(coordinator)
        assert ran_nothing(child)
    [message] = await coordinator.results(newest=5)
    assert message.result is not None
    assert message.result.id == done.record.entry.result_id


async def test_a_result_that_the_bus_cannot_store_yet_is_stored_later(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = (await coordinator.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await coordinator.bus.store("agent.doc.results", b"filler")
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_msgs": 1})
    task = await coordinator.publish("code", "say:done", task_type="x")
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await child.until_said("the result cannot be stored yet")
        await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_msgs": -1})
        await settled(coordinator, task.id)
        await acknowledged(coordinator)
    assert (await counts(coordinator))["AGENT_RESULTS"] == 2


async def test_an_outage_longer_than_the_lease_loses_no_work(tmp_path: Path):
    server = await start_server(store=tmp_path / "s", port=free_port())
    port = int(server.url.rpartition(":")[2])
    ran = tmp_path / "ran"
    try:
        async with connect(server.url) as bus:
            await set_up(bus.bus)
            await short_lease(bus, lease_s=1)
            config = worker_toml(tmp_path, server.url)
            async with worker(config) as owner, worker(config) as other:
                task = await bus.publish("code", f"touch:{ran} sleep:3 say:done", task_type="x")
                await eventually(ran.exists, "it runs")
                server.kill()
                for child in (owner, other):
                    await child.until_said("connection lost")
                await asyncio.sleep(2)  # the outage is what is tested: twice the lease
                server = await start_server(store=tmp_path / "s", port=port)
                status = await settled(bus, task.id)
                await acknowledged(bus)
            assert status.record.entry.attempt == 1
            assert ran.read_text(encoding="utf-8").splitlines() == ["ran"]
            assert (await counts(bus))["AGENT_RESULTS"] == 1
    finally:
        await server.stop()


async def test_after_a_restart_of_the_server_a_task_is_taken_before_a_heartbeat_could_stay_out(tmp_path: Path):
    server = await start_server(store=tmp_path / "s", port=free_port())
    port = int(server.url.rpartition(":")[2])
    loop = asyncio.get_running_loop()
    try:
        async with connect(server.url) as bus:
            await set_up(bus.bus)
            async with worker(worker_toml(tmp_path, server.url)) as child:
                for _ in range(3):
                    connections = child.log.read_text(encoding="utf-8").count("connected to nats-server")
                    server.kill()
                    server = await start_server(store=tmp_path / "s", port=port)
                    await eventually(
                        lambda seen=connections: (
                            child.log.read_text(encoding="utf-8").count("connected to nats-server") > seen
                        ),
                        "the worker is back",
                    )
                    await bus.bus.wait_connected()
                    taken = tmp_path / f"taken{loop.time()}"
                    before = loop.time()
                    task = await bus.publish("code", f"touch:{taken} say:x", task_type="x")
                    published = loop.time()
                    await eventually(taken.exists, "it is taken")
                    assert loop.time() - published < 5, f"published in {published - before:.3f} s"
                    await settled(bus, task.id)
    finally:
        await server.stop()


async def test_a_consumer_that_is_deleted_is_made_again(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with worker(worker_toml(tmp_path, server.url)):
        await coordinator.bus.api("CONSUMER.DELETE.AGENT_TASKS.agent-code")
        assert (await outcome(coordinator, "say:hi")).state == "completed"


# -- stopping ---------------------------------------------------------------------------------------------------


async def test_after_sigterm_the_running_task_finishes_and_no_other_is_taken(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran = tmp_path / "ran"
    first = await coordinator.publish("code", f"touch:{ran} sleep:0.5 say:done", task_type="x")
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await eventually(ran.exists, "it runs")
        child.terminate()
        second = await coordinator.publish("code", "say:later", task_type="x")
        assert await child.exit_code() == 0
    assert text(await settled(coordinator, first.id)) == "done\n"
    assert (await coordinator.task(second.id).status()).state == "queued"


@pytest.mark.parametrize("how", ["a second signal", "the drain time-out"])
async def test_a_task_that_outlasts_the_drain_is_ended_and_released_to_another_replica(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, how: str
):
    drain_s = 60 if how == "a second signal" else 0.2
    ran = tmp_path / "ran"
    command = ["sh", "-c", f"echo $$ >> {ran}; test $(wc -l < {ran}) -gt 1 || sleep 600; echo done", "agent", "{input}"]
    config = worker_toml(tmp_path, server.url, chat_cmd=command, worker={"drain_timeout_seconds": drain_s})
    task = await coordinator.publish("code", "x", task_type="x")
    async with worker(config) as child:
        await eventually(lambda: ran.exists() and ran.read_text(encoding="utf-8").strip(), "it runs")
        pid = int(ran.read_text(encoding="utf-8"))
        child.terminate()
        if how == "a second signal":
            await child.until_said("stopping")
            child.terminate()
        assert await child.exit_code() == 0
        assert not alive(pid)
        assert child.said("released")
    async with worker(config):
        async with asyncio.timeout(ACK_WAIT_S - 5):  # it is there at once, and not after its lease
            status = await settled(coordinator, task.id)
    assert status.record.entry.attempt == 1
    assert text(status) == "done\n"


async def test_an_idle_worker_stops_at_once_also_without_a_server(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    patient = {"drain_timeout_seconds": 600, "kill_grace_seconds": 600}  # what it would wait for
    async with worker(worker_toml(tmp_path, server.url, worker=patient)) as child:
        child.terminate()
        assert await child.exit_code() == 0
    away = worker_toml(tmp_path, "nats://127.0.0.1:1", worker={**patient, "reconnect_time_wait_seconds": 600})
    async with worker(away, ready=False) as child:
        await child.until_said("trying again")
        child.terminate()
        assert await child.exit_code() == 0


# -- starting ---------------------------------------------------------------------------------------------------


async def test_a_worker_that_waits_for_its_server_logs_one_line_for_each_change(tmp_path: Path):
    port = free_port()
    async with run_server(store=tmp_path / "s", port=port) as server, connect(server.url) as bus:
        await set_up(bus.bus)
    async with worker(worker_toml(tmp_path, server.url), ready=False) as child:
        await child.until_said("trying again")
        async with run_server(store=tmp_path / "s", port=port):
            await child.until_said("ready for tasks")
        assert child.log.read_text(encoding="utf-8").count("trying again about every") <= 2


async def test_a_worker_without_a_task_stream_exits_and_names_the_set_up_command(tmp_path: Path, server: NatsServer):
    async with worker(worker_toml(tmp_path, server.url), ready=False) as child:
        assert await child.exit_code() == 1
        assert child.said("the stream AGENT_TASKS does not exist")
        assert child.said("agentbus setup")


async def test_a_wrong_password_ends_the_worker_with_the_reason_and_without_the_password(tmp_path: Path):
    conf = tmp_path / "users.conf"
    conf.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{tmp_path / "s"}" }}\n'
        "authorization { user: agent-code, password: right }\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "s", config=conf) as server:
        url = server.url.replace("nats://", "nats://agent-code:wrong-secret@")
        async with worker(worker_toml(tmp_path, url), ready=False) as child:
            assert await child.exit_code() == 1
            assert child.said("refused the credentials of the user agent-code")
            assert not child.said("wrong-secret")


async def test_a_worker_that_may_not_make_its_consumer_names_what_an_administrator_must_run(tmp_path: Path):
    conf = tmp_path / "users.conf"
    conf.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{tmp_path / "s"}" }}\n'
        "authorization { users: [ { user: admin, password: x }, { user: agent-code, password: x, permissions: {\n"
        '  publish: ["$JS.API.CONSUMER.INFO.AGENT_TASKS.agent-code"], subscribe: ["_INBOX_code.>"] } } ] }\n',
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "s", config=conf) as server:
        async with connect(server.url.replace("nats://", "nats://admin:x@")) as bus:
            await set_up(bus.bus)
        url = server.url.replace("nats://", "nats://agent-code:x@")
        async with worker(worker_toml(tmp_path, url), ready=False) as child:
            assert await child.exit_code() == 1
            assert child.said("agentbus setup --agent code")


async def test_a_consumer_of_another_agent_is_not_used(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await short_lease(coordinator, "doc")
    async with worker(worker_toml(tmp_path, server.url, nats={"durable": "agent-doc"}), ready=False) as child:
        assert await child.exit_code() == 1
        assert child.said("takes agent.doc.tasks, not agent.code.tasks")


async def test_a_task_stream_with_limits_retention_works_too(tmp_path: Path, server: NatsServer):
    async with connect(server.url) as bus:
        old = {"name": "AGENT_TASKS", "subjects": ["agent.*.tasks"], "retention": "limits"}
        await bus.bus.api("STREAM.CREATE.AGENT_TASKS", old)
        await set_up(bus.bus)
        async with worker(worker_toml(tmp_path, server.url)):
            assert text(await outcome(bus, "say:hi")) == "hi\n"
        async with worker(worker_toml(tmp_path, server.url)):
            assert text(await outcome(bus, "say:ho")) == "ho\n"
        assert len(await bus.results(newest=10)) == 2


# -- several at once --------------------------------------------------------------------------------------------


async def test_a_worker_runs_as_many_tasks_at_once_as_it_has_slots(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    meet = tmp_path / "meet"
    meet.mkdir()
    # Each waits for the others: only if all three run at the same time can any of them end.
    command = f"touch {meet}/$AGENTBUS_TASK_ID; while [ $(ls {meet} | wc -l) -lt 3 ]; do sleep 0.05; done; echo met"
    config = worker_toml(
        tmp_path, server.url, chat_cmd=["sh", "-c", command, "agent", "{input}"], worker={"concurrency": 3}
    )
    async with worker(config):
        tasks = [(await coordinator.publish("code", str(number), task_type="x")) for number in range(3)]
        waited = await coordinator.wait([task.id for task in tasks], timeout_s=WAIT_S)
    assert [text(status) for status in waited.settled.values()] == ["met\n"] * 3


async def test_replicas_share_the_tasks_and_each_task_has_one_result(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url)
    async with worker(config), worker(config), worker(config):
        tasks = [(await coordinator.publish("code", f"say:{number}", task_type="x")) for number in range(30)]
        waited = await coordinator.wait([task.id for task in tasks], timeout_s=WAIT_S)
        await acknowledged(coordinator)
    assert len(waited.settled) == 30
    assert (
        len({status.record.entry.claim.worker for status in waited.settled.values() if status.record.entry.claim}) > 1
    )
    ids = [message.result.id for message in await coordinator.results(newest=100) if message.result]
    assert len(ids) == len(set(ids)) == 30


# -- what must not be seen --------------------------------------------------------------------------------------


async def test_the_log_holds_neither_prompts_nor_outputs_nor_passwords(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url)
    async with worker(config) as child:
        await outcome(coordinator, "say:confidential_answer stderr:confidential_cause exit:1")
        await acknowledged(coordinator)
    log = (tmp_path / "logs-code" / "agentbus-worker.log").read_text(encoding="utf-8") + child.log.read_text(
        encoding="utf-8"
    )
    assert 'settled status=failed reason="the command exited with status 1"' in log
    assert "confidential" not in log


async def test_a_published_task_that_the_worker_refuses_is_settled_as_failed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url, worker={"max_task_bytes": 1000})):
        status = await outcome(coordinator, "x" * 2000)
        await acknowledged(coordinator)
    assert status.state == "failed"
    assert "max_task_bytes is 1000" in error(status)
    [message] = await coordinator.results(newest=5)
    assert message.result is not None
    assert message.result.id == status.record.entry.result_id


async def test_output_that_repeats_the_prompt_does_not_ask_for_an_approval(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=["echo", "{input}"])):
        assert (await outcome(coordinator, "hello")).state == "completed"
