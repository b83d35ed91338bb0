"""Clients that stop reading: they cost no memory, and find every notification when they read again."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from support.harness import BOUND_S
from support.mcp_harness import INITIALIZE, raw_server

pytestmark = pytest.mark.posix("sends to a server process that is ended by a signal")

TASKS = 120
ROUNDS = 20
QUIET_S = 1.0
GROWTH_BYTES = 32 * 1024 * 1024
MODERN: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def task_id(number: int) -> str:
    """Make a long id, so that few notifications fill the pipe."""
    return f"t{number}-{'x' * 100}"


def uri(number: int) -> str:
    return f"agentbus://tasks/{task_id(number)}"


def rss(pid: int) -> int:
    """Read the memory of a process, in bytes."""
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
    return int(fields[1]) * 4096


async def subscribe(process: asyncio.subprocess.Process, era: str) -> None:
    """Subscribe to all tasks, and read until the server confirms."""
    assert process.stdin
    assert process.stdout

    def send(*messages: dict[str, Any]) -> None:
        assert process.stdin
        process.stdin.writelines(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages)

    uris = [uri(number) for number in range(TASKS)]
    if era == "2026":
        asked: dict[str, Any] = {"notifications": {"resourceSubscriptions": uris}, "_meta": MODERN}
        send({"id": "listen", "method": "subscriptions/listen", "params": asked})
        first = json.loads(await process.stdout.readline())
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert len(first["params"]["notifications"]["resourceSubscriptions"]) == TASKS
        return
    send(INITIALIZE)
    await process.stdout.readline()
    send({"method": "notifications/initialized"})
    send(*({"id": uri, "method": "resources/subscribe", "params": {"uri": uri}} for uri in uris))
    for _ in uris:
        assert "result" in json.loads(await process.stdout.readline())


async def change_all(coordinator: Coordinator) -> None:
    """Change every task once."""
    ledger = Ledger(coordinator.bus)
    entry = Entry(state="queued", digest="d", sender="agent-main", inbox="main", task_type="test")

    async def change(number: int) -> None:
        record = await ledger.read(TaskKey("code", task_id(number)))
        await ledger.write(TaskKey("code", task_id(number)), entry, revision=record.revision)

    for start in range(0, TASKS, 40):
        async with asyncio.TaskGroup() as group:
            for number in range(start, start + 40):
                group.create_task(change(number))


async def told_of_all(stdout: asyncio.StreamReader) -> int:
    """Read until each task was notified; return the number of notifications."""
    left, told = {uri(number) for number in range(TASKS)}, 0
    while left:
        message = json.loads(await stdout.readline())
        assert message["method"] == "notifications/resources/updated"
        left.discard(message["params"]["uri"])
        told += 1
    return told


@pytest.mark.gate("2026")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process from /proc")
@pytest.mark.parametrize("era", ["2026", "2025"])
async def test_a_client_that_does_not_read_costs_no_memory_and_misses_nothing(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with asyncio.timeout(3 * BOUND_S), raw_server("--nats-url", server.url) as process:
        assert process.stdout
        await subscribe(process, era)
        await change_all(coordinator)
        before = rss(process.pid)
        for _ in range(ROUNDS):
            await change_all(coordinator)
        assert rss(process.pid) - before < GROWTH_BYTES
        told = 0
        while told < ROUNDS * TASKS:
            try:
                async with asyncio.timeout(QUIET_S):
                    message = json.loads(await process.stdout.readline())
            except TimeoutError:
                break
            assert message["method"] == "notifications/resources/updated"
            told += 1
        assert told < ROUNDS * TASKS / 2, "what changed several times is told once"
        await change_all(coordinator)
        assert await told_of_all(process.stdout) == TASKS
