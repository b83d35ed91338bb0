"""What the tests of the MCP server share: clients of both protocol eras, answers taken apart, results made by hand."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types import CallToolResult, ResourceLink, TextContent

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.protocol import subjects
from agentbus.protocol.ids import make_result_id, random_token
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.ledger_entry import Record, settled
from agentbus.protocol.messages import Failure, ResultStatus, Task, decode_result, new_result
from agentbus.protocol.roles import Role
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import Presence
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.server import create_server
from support.harness import Process, eventually, process

both_eras = pytest.mark.parametrize("era", ["auto", "legacy"], ids=["2026", "2025"])
NOWHERE = "nats://127.0.0.1:1"
"""An address where nothing listens."""


@asynccontextmanager
async def in_memory(
    url: str,
    era: str = "auto",
    *,
    coordinator: str = "main",
    role: Role | None = None,
    folders: Sequence[Path] = (),
    **about: Any,
) -> AsyncGenerator[Client]:
    """A client of the server in this process, for a coordinator; `about` says what else it is."""
    settings = connection_settings(NatsSection(url=url), agent=coordinator, name="test", reconnect_wait_s=0.2)
    bus_link = BusLink(settings, coordinator, role, folders=folders)
    async with bus_link.open(), Client(create_server(bus_link), mode=era, **about) as client:
        yield client


@asynccontextmanager
async def over_stdio(
    log: Path,
    era: str,
    *args: str,
    command: list[str] | None = None,
    env: dict[str, str] | None = None,
    **about: Any,
) -> AsyncGenerator[Client]:
    """A client of the real server process, whose stderr goes to `log`; `env` adds to the environment of the tests."""
    program, *first = command or [sys.executable, "-m", "agentbus_mcp"]
    server = StdioServerParameters(command=program, args=[*first, *args], env={**os.environ, **(env or {})})
    with log.open("a", encoding="utf-8") as errors:
        async with Client(stdio_client(server, errlog=errors), mode=era, **about) as client:
            yield client


@dataclass(frozen=True)
class HttpServer:
    """The real server process, serving HTTP."""

    url: str
    process: Process

    @property
    def base(self) -> str:
        return self.url.removesuffix("/mcp")


@asynccontextmanager
async def http_server(log: Path, *args: str, at: str = "127.0.0.1:0") -> AsyncGenerator[HttpServer]:
    """The real server process, once it serves; its stdout and stderr go to `log`."""
    async with http_server_of([sys.executable, "-m", "agentbus_mcp", "--http", at, *args], log) as mcp:
        yield mcp


@asynccontextmanager
async def http_server_of(argv: list[str], log: Path) -> AsyncGenerator[HttpServer]:
    """The server process of a command, once it serves."""
    with process(argv, log) as child:
        await child.until_said('{"url":')
        [line] = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith('{"url":')]
        yield HttpServer(json.loads(line)["url"], child)


@asynccontextmanager
async def over_http(url: str, era: str = "auto", token: str | None = None) -> AsyncGenerator[Client]:
    """A client of a server process over HTTP."""
    headers = {"Authorization": f"Bearer {token}"} if token else None
    async with (
        create_mcp_http_client(headers) as http,
        Client(streamable_http_client(url, http_client=http), mode=era) as client,
    ):
        yield client


def text_of(answer: CallToolResult) -> str:
    """The one text of an answer; what follows it are links."""
    content, *links = answer.content
    assert isinstance(content, TextContent)
    assert all(isinstance(link, ResourceLink) for link in links)
    return content.text


def links_of(answer: CallToolResult) -> list[str]:
    """Where the links of an answer lead."""
    return [content.uri for content in answer.content if isinstance(content, ResourceLink)]


def data_of(answer: CallToolResult) -> dict[str, Any]:
    """The structure of an answer, which its text repeats as one line of JSON below a summary."""
    assert not answer.is_error, text_of(answer)
    summary, line = text_of(answer).split("\n")
    assert summary
    assert json.loads(line) == answer.structured_content
    assert "null" not in encode(answer.structured_content).decode()
    return answer.structured_content


def error_of(answer: CallToolResult) -> str:
    """The text of a failure."""
    assert answer.is_error
    assert answer.structured_content is None
    return text_of(answer)


async def settle(
    coordinator: Coordinator,
    task_id: str,
    output: Json = "done",
    *,
    agent: str = "code",
    owner: str = "main",
    status: ResultStatus = "completed",
    error: str | None = None,
    failure: Failure | None = None,
    task: Task | None = None,
    extra: dict[str, Json] | None = None,
) -> None:
    """Do what a worker does at the end of a task: commit the result to the ledger and publish it."""
    ledger, key = Ledger(coordinator.bus), TaskKey(agent, task_id, owner)
    record = await ledger.read(key)
    assert isinstance(record, Record)
    message = result_message(task_id, output, agent=agent, status=status, error=error, failure=failure)
    result = decode_result(encode({**message, **key.owner_field, **(extra or {})}))
    if task is not None:
        result = result.model_copy(update={"task": task.to_json()})
    await ledger.write(key, settled(record.entry, result), revision=record.revision)
    await put(coordinator, result.to_json(), inbox=record.entry.inbox)


def result_message(
    task_id: str,
    output: Json,
    *,
    agent: str = "code",
    status: ResultStatus = "completed",
    error: str | None = None,
    failure: Failure | None = None,
) -> dict[str, Json]:
    """A result as a worker writes it."""
    task = {"id": task_id, "from": "agent-main", "to": f"agent-{agent}", "type": "task.request", "task_type": "test"}
    result_id = make_result_id(agent, task_id, random_token())
    extra: dict[str, Json] = {"worker": "machine-1"}
    return new_result(
        task, result_id=result_id, status=status, result=output, error=error, failure=failure, extra=extra
    ).to_json()


async def put(coordinator: Coordinator, message: Json, *, inbox: str = "main") -> None:
    """Store a message in an inbox, as every party with the right to publish can."""
    await coordinator.bus.store(subjects.results(inbox), encode(message), msg_id=random_token())


AGENTS, INBOX = "agentbus://agents", "agentbus://agents/main/results"
TASKS, RESULTS = "agentbus://streams/AGENT_TASKS", "agentbus://streams/AGENT_RESULTS"

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@asynccontextmanager
async def raw_server(*args: str, **env: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The process with bare pipes; gone afterwards, whatever happens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agentbus_mcp",
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def worker_of(agent: str, **more: Any) -> Presence:
    """What a worker says of itself."""
    about = {"host": "machine", "pid": 1, "version": "1", "slots": 1, "free": 1, "started_at": "2026-11-22T00:00:00Z"}
    return Presence.model_validate({"agent": agent, "instance": f"machine-{agent}", **about, **more})


async def until_watched(bus: Bus, stream: str) -> None:
    """Wait until a consumer waits for new messages of a stream."""

    async def watched() -> bool:
        answer = await bus.api(f"CONSUMER.LIST.{stream}")
        listed: list[dict[str, Any]] = answer.get("consumers") or []
        return any(
            consumer["config"].get("deliver_policy") in ("new", "last_per_subject", "by_start_sequence")
            and consumer["num_waiting"] > 0
            for consumer in listed
        )

    await eventually(watched, f"a watch on {stream}")
