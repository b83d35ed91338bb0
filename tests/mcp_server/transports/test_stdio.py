"""The real server process over stdio: start, one whole job, and every way to end."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S, run_cli, worker, worker_toml
from support.mcp_harness import INITIALIZE, NOWHERE, both_eras, data_of, error_of, over_stdio, raw_server

pytestmark = pytest.mark.posix("not tried on Windows")

SCRIPT = str(Path(sys.executable).with_name("agentbus-mcp"))


async def exchange(process: asyncio.subprocess.Process, message: dict[str, Any]) -> dict[str, Any]:
    """Send a line, and read a line."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(message).encode() + b"\n")
    async with asyncio.timeout(BOUND_S):
        return json.loads(await process.stdout.readline())


async def answer_to(process: asyncio.subprocess.Process, message: dict[str, Any]) -> dict[str, Any]:
    """Send a line, and read until its answer."""
    answer = await exchange(process, message)
    assert process.stdout
    async with asyncio.timeout(BOUND_S):
        while answer.get("id") != message["id"]:
            answer = json.loads(await process.stdout.readline())
    return answer


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait for the end of the process; return its exit code and what it wrote to stderr."""
    async with asyncio.timeout(BOUND_S):
        code = await process.wait()
    assert process.stderr
    return code, (await process.stderr.read()).decode()


# -- a whole job ------------------------------------------------------------------------------------------------


@both_eras
async def test_a_task_for_two_agents_comes_back_with_two_results(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code", "doc"])
    folders = {agent: tmp_path / agent for agent in ("code", "doc")}
    for folder in folders.values():
        folder.mkdir()
    code, doc = (worker_toml(folder, server.url, agent=agent) for agent, folder in folders.items())
    client = over_stdio(tmp_path / "mcp.log", era, "--nats-url", server.url, command=[SCRIPT])
    async with worker(code), worker(doc), client as mcp:
        published = data_of(
            await mcp.call_tool(
                "publish_task", {"to": ["code", "doc"], "content": "env:AGENTBUS_AGENT_ID", "task_type": "greet"}
            )
        )
        call = published["next"]
        watched = data_of(await mcp.call_tool(call["tool"], {**call["arguments"], "timeout_seconds": 60}))
        read_again = data_of(await mcp.call_tool("get_results", call["arguments"]))
    assert [(result["agent"], result["status"], result["output"]) for result in watched["results"]] == [
        ("code", "completed", "code\n"),
        ("doc", "completed", "doc\n"),
    ]
    assert "pending" not in watched
    assert read_again["results"] == watched["results"]


@pytest.mark.gate("2026")
@both_eras
async def test_a_second_server_process_continues_with_the_tasks_of_the_first(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])

    def client() -> AbstractAsyncContextManager[Client]:
        return over_stdio(tmp_path / "mcp.log", era, "--nats-url", server.url, command=[SCRIPT])

    async with client() as mcp:
        agents = data_of(await mcp.call_tool("list_agents", {}))
        job = {"to": "code", "content": "approval", "task_type": "test", "task_id": "risky"}
        published = data_of(await mcp.call_tool("publish_task", job))
        await mcp.call_tool("publish_task", {**job, "content": "bytes:20000", "task_id": "long"})
        await mcp.call_tool("publish_task", {**job, "task_id": "superfluous"})
        cancelled = data_of(await mcp.call_tool("cancel_task", {"task_ids": ["superfluous"]}))
        inbox = data_of(await mcp.call_tool("watch_results", {"timeout_seconds": 0}))
        unknown = error_of(await mcp.call_tool("get_task", {"task_id": "nope"}))
    async with worker(worker_toml(tmp_path, server.url)), client() as mcp:
        asked = data_of(await mcp.call_tool("watch_results", {"task_ids": ["risky", "long"], "timeout_seconds": 60}))
        seen = data_of(await mcp.call_tool(asked["next"]["tool"], asked["next"]["arguments"]))
        answered = data_of(await mcp.call_tool("answer_approval", {"task_id": "risky", "approve": True}))
        await mcp.call_tool("watch_results", {**answered["next"]["arguments"], "timeout_seconds": 60})
        news = data_of(await mcp.call_tool("watch_results", inbox["next"]["arguments"]))
        listed = data_of(await mcp.call_tool("list_tasks", {}))
        prompts = [prompt.name for prompt in (await mcp.list_prompts()).prompts]
    assert [(agent["agent"], agent["online"]) for agent in agents["agents"]] == [("code", False)]
    assert published["published"][0]["online"] is False
    assert cancelled["tasks"][0]["effect"] == "it will not be started"
    assert unknown.startswith("get_task: no task nope is known on this bus")
    asking, long = asked["results"]
    assert (asking["status"], long["output_bytes"]) == ("needs_approval", 20_000)
    assert long["output"] + seen["results"][0]["output"] == "x" * 20_000
    # The cursor of the first process is valid in the second, so no message in between is missing.
    assert {"risky", "long", "superfluous"} <= {result["task_id"] for result in news["results"]}
    assert {task["task_id"] for task in listed["tasks"]} == {"risky", "long", "superfluous", "risky.answer"}
    assert prompts == ["delegate", "collect"]


@both_eras
async def test_without_a_bus_the_handshake_and_the_lists_are_answered(era: str, tmp_path: Path) -> None:
    async with over_stdio(tmp_path / "mcp.log", era, "--nats-url", NOWHERE) as client:
        assert client.server_info
        assert client.server_info.name == "agentbus"
        assert len((await client.list_tools()).tools) == 9
        assert len((await client.list_resources()).resources) == 5
        assert f"cannot reach the bus at {NOWHERE}" in error_of(await client.call_tool("get_results", {}))


async def test_standard_output_carries_the_protocol_and_nothing_else(server: NatsServer) -> None:
    async with raw_server("--nats-url", server.url) as process:
        answer = await exchange(process, INITIALIZE)
        assert answer["result"]["serverInfo"]["name"] == "agentbus"
        assert answer["result"]["instructions"]
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        code, said = await ended(process)
        assert (code, await process.stdout.read()) == (0, b"")
        assert "connected to nats-server" in said
        assert "Traceback" not in said


# -- requests that are sloppy, or the last -----------------------------------------------------------------------


async def said_to(process: asyncio.subprocess.Process, *lines: bytes) -> list[dict[str, Any]]:
    """Write lines in one go, close the input, and return the answers to all but the handshake."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"\n".join([json.dumps(INITIALIZE).encode(), *lines, b""]))
    process.stdin.close()
    async with asyncio.timeout(BOUND_S):
        answers = [json.loads(line) for line in (await process.stdout.read()).splitlines()]
    return [answer for answer in answers if answer.get("id") != INITIALIZE["id"]]


def call(request_id: Any, tool: str, **arguments: Any) -> bytes:
    params = {"name": tool, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}).encode()


async def test_every_request_of_a_sloppy_host_is_answered(server: NatsServer, coordinator: Coordinator) -> None:
    cut = call(501, "publish_task", to="code", content="caf\ud83d", task_type="t", task_id="cut")
    lines = [
        b"\xef\xbb\xbf" + call(502, "list_agents") + b"\r",
        b"",
        cut,
        b'{"jsonrpc":"2.0","id":503,"method":"ping","params":{"x":' + b"9" * 5_000 + b"}}",
        b'{"id":504,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":505.5,"method":"ping"}',
        b'[{"jsonrpc":"2.0","id":506,"method":"ping"}]',
        *[call("same", "get_task", task_id="nope")] * 3,
        b'{"jsonrpc":"2.0","id":507,"method":"pi',
        b"hello",
    ]
    async with raw_server("--nats-url", server.url) as process:
        answers = await said_to(process, *lines)
        code, said = await ended(process)
    ids = sorted((answer["id"] for answer in answers), key=str)
    assert ids == [501, 502, 503, 504, 505.5, 506, 507, None, "same", "same", "same"]
    errors = {answer["id"]: answer["error"]["code"] for answer in answers if "error" in answer}
    assert errors == {503: -32700, 504: -32600, 505.5: -32600, 506: -32600, 507: -32700, None: -32700}
    status = await coordinator.task("cut").status()
    assert code == 0
    assert said.count("a line of the client is refused") == 6
    stored = await coordinator.bus.last_message("AGENT_TASKS", "agent.code.tasks")
    assert stored is not None
    assert "caf\ufffd" in stored.data.decode()
    assert status.state == "queued"


@pytest.mark.parametrize("up", [True, False], ids=["a bus", "no bus"])
async def test_calls_that_were_read_before_the_end_of_the_input_are_answered(
    up: bool, server: NatsServer, coordinator: Coordinator
) -> None:
    calls = [call(number, "publish_task", to="code", content="x", task_type="t") for number in range(10, 20)]
    listing = b'{"jsonrpc":"2.0","id":20,"method":"tools/list"}'
    async with raw_server("--nats-url", server.url if up else NOWHERE) as process:
        answers = {answer["id"]: answer for answer in await said_to(process, *calls, listing)}
        code, _ = await ended(process)
    assert sorted(answers) == list(range(10, 21))
    assert code == 0
    assert all("result" in answer for answer in answers.values())
    published = [answers[number]["result"].get("structuredContent", {}) for number in range(10, 20)] if up else []
    names = [task["task_id"] for answer in published for task in answer["published"]]
    assert len(names) == (10 if up else 0)
    assert (await coordinator.bus.stream_info("AGENT_TASKS")).state.messages == len(names)
    assert [task.state for task in (await coordinator.list_tasks()).tasks] == ["queued"] * len(names)


async def test_a_signal_leaves_no_task_that_is_half_published(server: NatsServer, coordinator: Coordinator) -> None:
    calls = [call(number, "publish_task", to="code", content="x", task_type="t") for number in range(10, 40)]
    async with raw_server("--nats-url", server.url) as process:
        await exchange(process, INITIALIZE)
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"\n".join([*calls, b""]))
        answers = [await process.stdout.readline()]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BOUND_S):
            answers += (await process.stdout.read()).splitlines()
        code, said = await ended(process)
    assert code == 0
    assert "Traceback" not in said
    queued = [task.task_id for task in (await coordinator.list_tasks(limit=50)).tasks]
    assert (await coordinator.bus.stream_info("AGENT_TASKS")).state.messages == len(queued)
    results = [json.loads(answer).get("result", {}).get("structuredContent", {}) for answer in answers]
    told = [task["task_id"] for result in results for task in result.get("published", [])]
    assert told
    assert set(told) <= set(queued)


async def test_a_wait_that_the_end_of_the_input_cuts_answers_with_what_is_there(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    lines = [
        call(2, "watch_results", task_ids=["a"], timeout_seconds=240),
        call(3, "watch_results", timeout_seconds=240),
        call(4, "publish_task", to="doc", content="x", task_type="t", task_id="b", watch=True),
    ]
    async with raw_server("--nats-url", server.url) as process:
        answers = {answer["id"]: answer["result"]["structuredContent"] for answer in await said_to(process, *lines)}
        code, _ = await ended(process)
    assert code == 0
    assert answers[2]["pending"][0]["task_id"] == "a"
    assert answers[3]["next"]["tool"] == "watch_results"
    assert answers[4]["published"][0]["task_id"] == "b"


async def test_a_listening_client_gets_the_end_of_its_stream(server: NatsServer) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    params = {"notifications": {"resourceSubscriptions": ["agentbus://agents"]}, "_meta": meta}
    listen = {"jsonrpc": "2.0", "id": 2, "method": "subscriptions/listen", "params": params}
    async with raw_server("--nats-url", server.url) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(listen).encode() + b"\n")
        process.stdin.close()
        async with asyncio.timeout(BOUND_S):
            answers = [json.loads(line) for line in (await process.stdout.read()).splitlines()]
        code, _ = await ended(process)
    assert code == 0
    assert [answer["id"] for answer in answers if "result" in answer] == [2]


async def test_a_log_that_nobody_reads_does_not_stop_the_server(server: NatsServer) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4_096)
    os.set_blocking(writing, True)
    try:
        process = await asyncio.create_subprocess_exec(
            SCRIPT,
            "--nats-url",
            server.url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=writing,
        )
        try:
            assert process.stdin
            for number in range(5_000):  # each has a line in the log: more than may wait
                process.stdin.write(b'{"id":%d}\n' % number)
                if number % 500 == 0:
                    await answer_to(process, {"id": f"n{number}"})
            assert (await answer_to(process, {"jsonrpc": "2.0", "id": "last", "method": "ping"}))["result"] == {}
            process.terminate()
            async with asyncio.timeout(BOUND_S):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("<&-", 1, "standard input is closed"),
        (">&-", 1, "standard output is closed"),
        ("2>&-", 0, ""),
    ],
)
async def test_standard_streams_that_are_closed_are_named(redirected: str, code: int, said: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        f'exec "$0" --nats-url {NOWHERE} {redirected}',
        SCRIPT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(BOUND_S):
        _, err = await process.communicate()
    assert process.returncode == code
    assert said in err.decode()
    assert "Traceback" not in err.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
async def test_an_output_that_cannot_be_written_to_is_named() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123, ASYNC230
        process = await asyncio.create_subprocess_exec(
            SCRIPT,
            "--nats-url",
            NOWHERE,
            stdin=asyncio.subprocess.PIPE,
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(BOUND_S):
            _, err = await process.communicate(json.dumps(INITIALIZE).encode() + b"\n")
    assert process.returncode == 1
    assert "standard output cannot be written to: [Errno 28] No space left on device" in err.decode()
    assert "Traceback" not in err.decode()


# -- every way to end -------------------------------------------------------------------------------------------


@pytest.mark.gate("input-up", "15-down")
@pytest.mark.parametrize("bus", ["up", "down"])
@pytest.mark.parametrize("how", ["end of input", signal.SIGTERM, signal.SIGINT], ids=str)
async def test_the_server_ends_at_once_and_in_order(how: str | signal.Signals, bus: str, server: NatsServer) -> None:
    async with raw_server("--nats-url", server.url if bus == "up" else NOWHERE) as process:
        await exchange(process, INITIALIZE)
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        else:
            assert process.stdin
            process.stdin.close()
        code, said = await ended(process)
    assert code == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("how", ["end of input", signal.SIGTERM], ids=str)
async def test_the_server_ends_during_a_watch(
    how: str | signal.Signals, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    call = {"name": "watch_results", "arguments": {"task_ids": ["a"], "timeout_seconds": 240}}
    call["_meta"] = {"progressToken": 1}
    async with raw_server("--nats-url", server.url) as process:
        await exchange(process, INITIALIZE)
        assert process.stdin
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode() + b"\n")
        progress = await exchange(process, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})
        assert progress["method"] == "notifications/progress"
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        else:
            process.stdin.close()
        code, said = await ended(process)
    assert code == 0
    assert "Traceback" not in said
    assert (await coordinator.task("a").status()).state == "queued"


@pytest.mark.parametrize("how", ["end of input", signal.SIGTERM], ids=str)
async def test_a_name_look_up_that_hangs_does_not_delay_the_end(how: str | signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\nsocket.getaddrinfo = lambda *_, **__: time.sleep(1000)\n", encoding="utf-8"
    )
    async with raw_server("--nats-url", "nats://bus.example.com", PYTHONPATH=str(tmp_path)) as process:
        await exchange(process, INITIALIZE)
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        else:
            assert process.stdin
            process.stdin.close()
        code, _ = await ended(process)
    assert code == 0


async def test_a_host_that_is_gone_leaves_no_traceback(server: NatsServer) -> None:
    async with raw_server("--nats-url", server.url) as process:
        await exchange(process, INITIALIZE)
        transport = process._transport  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        transport.get_pipe_transport(1).close()  # pyright: ignore[reportUnknownMemberType]
        assert process.stdin
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode() + b"\n")
        process.stdin.close()
        code, said = await ended(process)
    assert code == 0
    assert "Traceback" not in said


# -- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--nats-url", "http://bus.example.com"], "the NATS URL begins with 'http'; use nats:// or, with TLS, tls://"),
        (["--config", "missing.toml"], "cannot read missing.toml: No such file or directory"),
    ],
)
async def test_an_unusable_configuration_is_an_error_of_one_line_with_exit_code_1(args: list[str], said: str) -> None:
    ran = await run_cli(*args, module="agentbus_mcp")
    assert (ran.code, ran.out, ran.err) == (1, "", f"error: {said}\n")


async def test_the_server_finds_the_configuration_where_the_command_line_does(server: NatsServer, home: Path) -> None:
    folder = home / ".agentbus"
    folder.mkdir()
    (folder / "coordinator.toml").write_text(
        f'[nats]\nurl = "{NOWHERE}"\n[coordinator]\nid = "boss"\n', encoding="utf-8"
    )
    env = {**os.environ, "AGENTBUS_NATS_URL": server.url}
    process = await asyncio.create_subprocess_exec(
        SCRIPT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    _, err = await process.communicate()
    assert process.returncode == 0
    assert "127.0.0.1:1:" not in err.decode()


async def test_a_password_on_the_command_line_causes_a_warning(server: NatsServer) -> None:
    ran = await run_cli("--nats-url", "nats://main:secret@127.0.0.1:1", module="agentbus_mcp")
    assert ran.code == 0
    assert "a password in --nats-url shows in the process list" in ran.err
    assert "secret" not in ran.err


async def test_help_and_version_are_printed() -> None:
    help_, version = await asyncio.gather(
        run_cli("--help", module="agentbus_mcp"), run_cli("--version", module="agentbus_mcp")
    )
    assert (help_.code, version.code) == (0, 0)
    assert "claude mcp add agentbus -- uvx agentbus-mcp" in help_.out
    assert version.out.startswith("agentbus-mcp, version ")
