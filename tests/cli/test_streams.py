"""Standard streams that are closed or full: one line says so, and the exit code. What comes in and goes out as text."""

import asyncio
import json
import shlex
import sys
from dataclasses import dataclass

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import run_cli

pytestmark = pytest.mark.posix("/dev/full, and descriptors that a shell closes")


@dataclass(frozen=True)
class Ran:
    code: int | None
    out: bytes
    err: str


async def run(*args: str, streams: str = "", stdin: bytes = b"", module: str = "agentbus") -> Ran:
    """Run `agentbus ARGS` with redirections of the shell."""
    command = f"exec {shlex.join([sys.executable, '-m', module, *args])} {streams}"
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", command,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await child.communicate(stdin)
    return Ran(child.returncode, out, err.decode())


FULL = "cannot write to standard output: No space left on device"
CLOSED = "cannot write to standard output: Bad file descriptor"


@pytest.mark.parametrize(("streams", "why"), [("> /dev/full", FULL), (">&-", CLOSED)], ids=["full", "closed"])
@pytest.mark.parametrize("args", [("task", "list"), ("status",), ("result", "get", "--agent", "main")], ids=str)
async def test_output_that_cannot_be_written_is_one_line(
    server: NatsServer, coordinator: Coordinator, args: tuple[str, ...], streams: str, why: str
):
    await coordinator.publish("code", "x", task_id="job")
    await coordinator.bus.store("agent.main.results", b'{"any": "json"}')
    ran = await run(*args, "--nats-url", server.url, streams=streams)
    assert (ran.code, ran.err) == (1, f"error: {why}\n")


@pytest.mark.parametrize("module", ["agentbus", "agentbus_mcp"])
async def test_help_that_cannot_be_written_is_one_line(module: str):
    ran = await run("--help", streams="> /dev/full", module=module)
    assert (ran.code, ran.err) == (1, "error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("streams", ["2>&-", "2> /dev/full", "<&- 2>&-"])
async def test_without_standard_error_a_command_works_and_its_exit_code_tells_of_a_failure(streams: str):
    assert (await run("--version", streams=streams)).out.startswith(b"agentbus, version")
    assert (await run("task", "get", streams=streams)).code == 2


async def test_closed_standard_input_is_one_line(server: NatsServer, coordinator: Coordinator):
    to_code = ("task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "t")
    ran = await run(*to_code, "-", streams="<&-")
    assert (ran.code, ran.err) == (1, "error: cannot read standard input: Bad file descriptor\n")
    ran = await run(*to_code, "hi", streams="<&- 2>&-")
    assert (ran.code, json.loads(ran.out)["to"]) == (0, "agent-code")


@pytest.mark.parametrize("streams", ["<&-", "> /dev/full", ">&-"])
async def test_an_mcp_server_without_its_streams_is_one_error(streams: str):
    initialize = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize}
    nowhere = ("--nats-url", "nats://127.0.0.1:1")
    ran = await run(*nowhere, streams=streams, stdin=json.dumps(call).encode() + b"\n", module="agentbus_mcp")
    assert ran.code == 1
    assert ("standard input" if streams == "<&-" else "standard output") in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


# -- text ----------------------------------------------------------------------------------------------------------


async def test_a_line_of_json_is_one_line_for_every_reader(server: NatsServer, coordinator: Coordinator):
    content = "a\u2028b\u0085c\u2029d ü"
    await coordinator.publish("code", content, task_id="job")
    await coordinator.bus.store("agent.main.results", json.dumps({"x": content}, ensure_ascii=False).encode())
    await coordinator.bus.store("agent.main.results", content.encode())
    read = await run_cli("result", "get", "--agent", "main", "--limit", "2", "--nats-url", server.url)
    values = [json.loads(line) for line in read.out.splitlines()]
    assert values[0] == {"x": content}
    assert values[1]["agentbus"]["raw"] == content
    assert "ü" in read.out
    published = await run_cli("task", "publish", "--to", "code", "--task-type", "t", "--nats-url", server.url, content)
    assert [json.loads(line)["payload"]["content"] for line in published.out.splitlines()] == [content]


@pytest.mark.parametrize(
    ("data", "options", "content"),
    [
        (b"\xef\xbb\xbfhello", (), "hello"),
        (b'\xef\xbb\xbf{"a": 1}', ("--payload-fmt", "json"), {"a": 1}),
        (b"one\xef\xbb\xbftwo", (), "one\ufefftwo"),
    ],
    ids=["text", "json", "inside"],
)
async def test_a_byte_order_mark_is_no_part_of_standard_input(
    server: NatsServer, coordinator: Coordinator, data: bytes, options: tuple[str, ...], content: object
):
    to_code = ("task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "t")
    ran = await run(*to_code, *options, "-", stdin=data)
    assert json.loads(ran.out)["payload"]["content"] == content


async def test_utf_16_on_standard_input_is_named():
    ran = await run("task", "publish", "--to", "code", "--task-type", "t", "-", stdin="hé".encode("utf-16"))
    assert (ran.code, ran.err) == (
        1,
        "error: standard input is not UTF-8 text (byte 0); it is UTF-16: convert it first\n",
    )
