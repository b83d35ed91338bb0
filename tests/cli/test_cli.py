"""The command line, as processes of its own."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.config.toml_text import toml_text
from agentbus.protocol.messages import Failure
from agentbus.provision.nats_server import NatsServer
from support.harness import FAKE_AGENT, Ran, eventually, process, run_cli, worker, worker_toml
from support.mcp_harness import settle
from support.terminal import shown_on_terminal

pytestmark = pytest.mark.posix("not tried on Windows")


async def publish(server: NatsServer, *args: str) -> Ran:
    return await run_cli("task", "publish", "--nats-url", server.url, *args)


def one_line_error(ran: Ran, code: int, *parts: str) -> None:
    assert ran.code == code, ran
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


async def test_the_main_job_through_the_command_line_alone(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)), worker(worker_toml(tmp_path, server.url, agent="doc")):
        sent = await publish(server, "--to", "code", "--to", "agent-doc", "--task-type", "greet", "say:hello")
        assert sent.code == 0, sent.err
        tasks = [json.loads(line) for line in sent.out.splitlines()]
        assert [task["to"] for task in tasks] == ["agent-code", "agent-doc"]
        await coordinator.wait([task["id"] for task in tasks], timeout_s=30)

        async def both() -> list[str]:
            read = await run_cli("result", "get", "--nats-url", server.url, "--agent", "main", "--limit", "5")
            assert read.code == 0, read.err
            return read.out.splitlines() if len(read.out.splitlines()) == 2 else []

        lines = await eventually(both, "both results are in the inbox")
    results = [json.loads(line) for line in lines]
    assert {result["task"]["id"] for result in results} == {task["id"] for task in tasks}
    assert all(result["result"] == "hello\n" and result["status"] == "completed" for result in results)
    stored = [message.data.decode() for message in await coordinator.results(newest=2)]
    assert lines == stored
    state = await run_cli("task", "get", "--nats-url", server.url, tasks[0]["id"])
    assert json.loads(state.out)["state"] == "completed"
    assert json.loads(state.out)["result"]["result"] == "hello\n"
    retried = await run_cli("task", "retry", "--nats-url", server.url, tasks[0]["id"])
    assert json.loads(retried.out)["retry_of"] == tasks[0]["id"]
    assert "no worker of the agent code is alive now" in retried.err


async def test_publish_prints_the_message_as_it_is_stored_on_the_bus(server: NatsServer, coordinator: Coordinator):
    args = ["--to", "code", "--task-type", "x", "--from", "boss", "--reply-to", "agent-clerk", "--task-id", "my.id"]
    sent = await publish(server, *args, "--payload-fmt", "json", '{"ü": [1, null]}')
    message = await coordinator.bus.last_message("AGENT_TASKS", "agent.code.tasks")
    assert message is not None
    assert sent.out == message.data.decode() + "\n"
    task = json.loads(sent.out)
    assert task["payload"] == {"fmt": "json", "content": {"ü": [1, None]}}
    assert (task["from"], task["reply_to"], task["id"]) == ("agent-boss", "agent-clerk", "my.id")
    assert "ü" in sent.out


async def test_publishing_again_under_an_id_is_reported_and_changes_nothing(
    server: NatsServer, coordinator: Coordinator
):
    first = await publish(server, "--to", "code", "--task-type", "x", "--task-id", "job", "hi")
    again = await publish(server, "--to", "code", "--task-type", "x", "--task-id", "job", "hi")
    assert first.code == again.code == 0
    assert json.loads(again.out)["id"] == "job"
    assert "published before" in again.err
    one_line_error(await publish(server, "--to", "code", "--task-type", "x", "--task-id", "job", "ho"), 1, "belongs to")


async def test_when_some_targets_fail_the_others_are_printed_and_the_exit_code_says_so(
    server: NatsServer, coordinator: Coordinator
):
    await publish(server, "--to", "doc", "--task-type", "x", "--task-id", "job-doc", "other")
    sent = await publish(server, "--to", "code", "--to", "doc", "--task-type", "x", "--task-id", "job", "hi")
    assert sent.code == 1
    assert [json.loads(line)["id"] for line in sent.out.splitlines()] == ["job-code"]
    assert "1 of 2 not published" in sent.err


async def test_a_task_is_named_with_its_agent_where_another_one_has_its_id(
    server: NatsServer, coordinator: Coordinator
):
    for agent in ("code", "doc"):
        await coordinator.publish(agent, "hi", task_type="x", task_id="job")
    on_bus = ("--nats-url", server.url)
    one_line_error(await run_cli("task", "get", "job", *on_bus), 1, "several agents have a task job (code, doc)")
    shown = await run_cli("task", "get", "code/job", *on_bus)
    assert json.loads(shown.out)["agent"] == "code"
    await run_cli("task", "cancel", "doc/job", *on_bus)
    waited = await run_cli("task", "wait", "doc/job", "--timeout", "60", *on_bus)
    assert (json.loads(waited.out)["agent"], json.loads(waited.out)["state"]) == ("doc", "cancelled")
    one_line_error(await run_cli("task", "get", "code/job", "--agent", "doc", *on_bus), 1, "leave out one of the two")
    one_line_error(await run_cli("task", "get", "co.de/job", *on_bus), 2, "agent id")


@pytest.mark.parametrize("agent", ["*", ">", "a.b", "", "a" * 65])
async def test_an_agent_id_that_is_not_a_subject_token_is_a_usage_error(agent: str):
    one_line_error(
        await run_cli("task", "publish", "--to", agent, "--task-type", "x", "hi"), 2, "agent id", "not valid"
    )
    one_line_error(await run_cli("result", "get", "--agent", agent), 2, "agent id")


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["task", "publish", "--to", "code"], 2, "CONTENT"),
        (["task", "publish", "--task-type", "x", "hi"], 2, "--to"),
        (["task", "publish", "--to", "code", "--task-type", "x", "--payload-fmt", "xml", "hi"], 2, "xml"),
        (["task", "publish", "--to", "code", "--task-type", "x", "--task-id", "a..b", "hi"], 2, "task id"),
        (["task", "publish", "--to", "code", "--task-type", "x", "--payload-fmt", "json", "{nope"], 1, "not JSON"),
        (["task", "publish", "--to", "code", "--task-type", "x", "--payload-fmt", "json", "NaN"], 1, "not JSON"),
        (["result", "get", "--full", "a", "b"], 2, "exclude each other"),
        (["result", "get", "--agent", "main", "--limit", "-1"], 2, "--limit"),
        (["result", "get", "--agent", "main", "--nats-url", "http://x"], 1, "nats://"),
        (["result", "get", "--agent", "main", "--config", "/nowhere.toml"], 1, "/nowhere.toml"),
        (["worker", "run", "--config", "/nowhere.toml"], 1, "/nowhere.toml"),
        (["worker", "run"], 1, "no worker configuration found"),
        (["task", "answer", "job"], 2, "'--approve' or '--deny'"),
        (["setup", "--files-limit", "1GiB"], 2, "--files-limit goes with --agent"),
        (["frobnicate"], 2, "frobnicate"),
        (["up", "--port", "99999"], 2, "99999"),
    ],
)
async def test_bad_input_is_one_line_with_the_fix_and_its_exit_code(args: list[str], code: int, part: str):
    one_line_error(await run_cli(*args), code, part)


async def test_text_that_is_not_utf8_is_refused(server: NatsServer, coordinator: Coordinator):
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentbus", "task", "publish", "--nats-url", server.url, "--to", "code",
        "--task-type", "x", b"caf\xe9", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await child.communicate()
    one_line_error(Ran(child.returncode or 0, out.decode(), err.decode()), 1, "UTF-8")


async def test_standard_input_that_is_not_utf8_is_refused_with_the_place():
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentbus", "task", "publish", "--to", "code", "--task-type", "x", "-",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await child.communicate(b"caf\xe9")
    one_line_error(Ran(child.returncode or 0, out.decode(), err.decode()), 1, "standard input is not UTF-8", "byte 3")


async def test_a_bus_that_cannot_be_reached_is_an_error_that_says_what_to_do():
    ran = await run_cli("result", "get", "--agent", "main", "--nats-url", "nats://127.0.0.1:1")
    one_line_error(ran, 1, "connection refused", "agentbus up")


async def test_a_server_that_accepts_but_never_answers_is_dialled_once_for_less_than_five_seconds():
    loop = asyncio.get_running_loop()
    dials: list[float] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = loop.time()
        await reader.read()
        dials.append(loop.time() - start)
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        ran = await run_cli("result", "get", "--agent", "main", "--nats-url", f"nats://127.0.0.1:{port}")
        await eventually(lambda: dials, "the command has hung up")
    one_line_error(ran, 1, "did not answer")
    assert len(dials) == 1
    assert dials[0] < 5


async def test_publishing_to_a_bus_without_streams_is_an_error(server: NatsServer):
    one_line_error(await publish(server, "--to", "code", "--task-type", "x", "hi"), 1, "agentbus setup")


async def test_a_password_on_the_command_line_works_with_a_warning(server: NatsServer, coordinator: Coordinator):
    url = server.url.replace("nats://", "nats://user:secret@")
    ran = await run_cli("result", "get", "--agent", "main", "--nats-url", url)
    assert ran.code == 0
    assert "warning" in ran.err
    assert "coordinator.toml" in ran.err
    assert "secret" not in ran.err


async def test_the_connection_is_found_in_the_documented_order(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, home: Path
):
    dead = "nats://127.0.0.1:1"
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(toml_text({"nats": {"url": server.url}, "coordinator": {"id": "boss"}}), encoding="utf-8")
    bad.write_text(toml_text({"nats": {"url": dead}}), encoding="utf-8")
    get = ["result", "get", "--agent", "main"]
    assert (await run_cli(*get, "--nats-url", server.url, "--config", str(bad))).code == 0
    assert (await run_cli(*get, "--config", str(good), env={"AGENTBUS_NATS_URL": dead})).code == 0
    assert (await run_cli(*get, env={"AGENTBUS_NATS_URL": server.url})).code == 0
    (home / ".agentbus").mkdir()
    (home / ".agentbus" / "coordinator.toml").write_text(good.read_text(encoding="utf-8"), encoding="utf-8")
    assert (await run_cli(*get)).code == 0
    assert (await run_cli(*get, env={"AGENTBUS_NATS_URL": dead})).code == 1
    sent = await run_cli("task", "publish", "--to", "code", "--task-type", "x", "hi")
    assert json.loads(sent.out)["from"] == "agent-boss"


async def test_limit_means_the_same_with_watch_which_then_continues(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        for number in range(4):
            task = await coordinator.publish("code", f"say:{number}", task_type="x")
            await coordinator.wait([task.id], timeout_s=30)

        async def stored() -> bool:
            return len(await coordinator.results(newest=9)) == 4

        await eventually(stored, "all four are in the inbox")
        plain = await run_cli("result", "get", "--nats-url", server.url, "--agent", "main", "--limit", "2")
        out = tmp_path / "watched"
        argv = [sys.executable, "-m", "agentbus", "result", "get", "--nats-url", server.url, "--agent", "main"]
        with process([*argv, "--limit", "2", "--watch"], out) as watching:
            await eventually(lambda: len(out.read_text(encoding="utf-8").splitlines()) == 2, "the history is printed")
            assert out.read_text(encoding="utf-8") == plain.out
            await coordinator.publish("code", "say:new", task_type="x")
            await eventually(lambda: len(out.read_text(encoding="utf-8").splitlines()) == 3, "the new one is printed")
            os.kill(watching.pid, signal.SIGINT)
            assert await watching.exit_code() == 130
    texts = [json.loads(line)["result"] for line in out.read_text(encoding="utf-8").splitlines() if line]
    assert texts == ["2\n", "3\n", "new\n"]


async def test_a_closed_pipe_ends_the_command_without_an_error(server: NatsServer, coordinator: Coordinator):
    for number in range(3):
        await coordinator.bus.store("agent.main.results", b'{"n":%d}' % number + b" " * 70_000, msg_id=str(number))
    command = f"{sys.executable} -m agentbus result get --nats-url {server.url} --agent main --limit 3 | head -c 10"
    child = await asyncio.create_subprocess_exec(
        "bash", "-o", "pipefail", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), 30)
    assert (child.returncode, out, err) == (0, b'{"n":0}   ', b"")


async def test_a_message_that_is_not_a_result_is_shown_under_a_key_that_no_sender_can_forge(
    server: NatsServer, coordinator: Coordinator
):
    for number, raw in enumerate([b"\xff junk", b'{"agentbus": {"verified": true}, "a": 1}', b'{\n"a": 2\n}']):
        await coordinator.bus.store("agent.main.results", raw, msg_id=str(number))
    ran = await run_cli("result", "get", "--nats-url", server.url, "--agent", "main", "--limit", "3")
    junk, forged, multi = [json.loads(line) for line in ran.out.splitlines()]
    assert junk["agentbus"]["raw"] == "\ufffd junk"
    assert "not JSON" in junk["agentbus"]["fault"]
    assert forged == {"a": 1, "agentbus": {"stored": {"verified": True}}}
    assert multi == {"a": 2}


async def test_on_a_terminal_results_are_a_table_without_control_characters(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    command = ["sh", "-c", r"printf 'evil \033[2J \007 done\n'", "agent", "{input}"]
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=command)):
        task = await coordinator.publish("code", "x", task_type="x")
        await coordinator.wait([task.id], timeout_s=30)
    shown = await shown_on_terminal("task", "get", "--nats-url", server.url, task.id)
    assert "completed" in shown
    assert "evil" in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    assert not shown.lstrip().startswith("{")


async def test_the_code_of_a_failure_is_shown_wherever_its_task_is(server: NatsServer, coordinator: Coordinator):
    await coordinator.publish("code", "x", task_type="x", task_id="job")
    await settle(coordinator, "job", "", status="failed", error="why", failure=Failure("not_ended", "why"))
    commands = ["task get job", "task list", "result get --agent main", "status"]
    shown = await asyncio.gather(
        *(shown_on_terminal(*command.split(), "--nats-url", server.url) for command in commands)
    )
    assert ["failed (not_ended)" in page for page in shown] == [True] * len(commands)
    [listed] = (await coordinator.list_tasks()).tasks
    assert listed.to_json(with_result=False)["failure"] == {"code": "not_ended", "message": "why"}


async def test_a_completed_task_without_output_says_so(server: NatsServer, coordinator: Coordinator):
    await coordinator.publish("code", "x", task_type="x", task_id="job")
    await settle(coordinator, "job", "", status="completed")
    commands = ["task get job", "task wait job", "result get --agent main"]
    shown = await asyncio.gather(
        *(shown_on_terminal(*command.split(), "--nats-url", server.url) for command in commands)
    )
    assert ["(the command printed nothing)" in page for page in shown] == [True] * len(commands)


async def test_up_runs_a_bus_with_streams_and_keeps_its_messages(tmp_path: Path):
    store = tmp_path / "store"
    url = ""
    for run in range(2):
        out = tmp_path / f"up{run}"
        argv = [sys.executable, "-m", "agentbus", "up", "--port", "0", "--store", str(store), "--agent", "code"]
        with process(argv, out) as up:
            line = await eventually(lambda out=out: out.read_text(encoding="utf-8").strip(), "it says where it is")
            url = json.loads(line)["url"]
            if run == 0:
                sent = await run_cli(
                    "task", "publish", "--nats-url", url, "--to", "code", "--task-type", "x", "--task-id", "kept", "hi"
                )
                assert sent.code == 0, sent.err
            else:
                state = await run_cli("task", "get", "--nats-url", url, "kept")
                assert json.loads(state.out)["state"] == "queued"
            os.kill(up.pid, signal.SIGTERM if run else signal.SIGINT)
            assert await up.exit_code() == 0
    assert url


async def test_up_on_a_port_in_use_says_so(server: NatsServer, tmp_path: Path):
    port = server.url.rpartition(":")[2]
    ran = await run_cli("up", "--port", port, "--store", str(tmp_path / "store"))
    one_line_error(ran, 1, "did not start", f"something listens on 127.0.0.1:{port} already", "agentbus status")


async def test_up_with_a_store_that_cannot_be_written_to_is_one_line_with_the_fix(tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    store = tmp_path / "file" / "below"
    ran = await run_cli("up", "--port", "0", "--store", str(store))
    one_line_error(ran, 1, f"nats-server cannot keep its files in {store}: Not a directory; a file is in the place")


async def test_up_exits_with_an_error_when_its_server_dies(tmp_path: Path):
    out = tmp_path / "up"
    argv = [sys.executable, "-m", "agentbus", "up", "--port", "0", "--store", str(tmp_path / "store")]
    with process(argv, out) as up:
        line = await eventually(lambda: out.read_text(encoding="utf-8").strip(), "it says where it is")
        os.kill(json.loads(line)["pid"], signal.SIGKILL)
        assert await up.exit_code() == 1
        assert "exited with code" in out.read_text(encoding="utf-8")


async def test_the_demo_runs_all_steps_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ran = await run_cli("demo", timeout_s=120)
    assert ran.code == 0, ran.out + ran.err
    assert "✗" not in ran.out
    assert "took the task over" in ran.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        [], ["task"], ["task", "publish"], ["task", "get"], ["result", "get"], ["setup"], ["up"], ["demo"],
        ["worker", "run"], ["completion"],
    ],
)  # fmt: skip
async def test_help_comes_with_examples(command: list[str]):
    ran = await run_cli(*command, "--help")
    assert ran.code == 0
    assert "Usage: agentbus" in ran.out
    assert "Examples:" in ran.out or command == ["task"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_scripts_are_printed(shell: str):
    ran = await run_cli("completion", shell)
    assert ran.code == 0
    assert "_AGENTBUS_COMPLETE" in ran.out


async def test_every_error_of_worker_run_is_one_line(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    config = worker_toml(tmp_path, server.url, chat_cmd=[sys.executable, str(FAKE_AGENT)])
    one_line_error(await run_cli("worker", "run", "--config", str(config)), 1, "{input}")
    config.write_text(
        config.read_text(encoding="utf-8").replace("[worker]", "[worker]\ntask_timeout_secs = 3"), encoding="utf-8"
    )
    one_line_error(await run_cli("worker", "run", "--config", str(config)), 1, "task_timeout_seconds")
    assert await set_up(coordinator.bus)
