"""The MCP server with a bus that is down at the start, restarts, or refuses the credentials."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agentbus import connect
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import run_server, start_server
from support.free_ports import free_port
from support.mcp_harness import NOWHERE, both_eras, data_of, error_of, in_memory, settle, until_watched

pytestmark = both_eras

TASK = {"to": ["code"], "content": "work", "task_type": "test", "task_id": "a"}


async def test_without_a_bus_every_tool_says_what_is_wrong_and_what_to_do(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("publish_task", TASK),
            ("watch_results", {"task_ids": ["a"]}),
            ("get_results", {}),
            ("get_task", {"task_id": "a"}),
            ("list_tasks", {}),
            ("list_questions", {}),
            ("list_agents", {}),
            ("cancel_task", {"task_ids": ["a"]}),
            ("answer_approval", {"task_id": "a", "approve": True}),
        ]
        assert {tool for tool, _ in calls} == tools
        answers = await asyncio.gather(*(client.call_tool(tool, arguments) for tool, arguments in calls))
    for (tool, _), answer in zip(calls, answers, strict=True):
        text = error_of(answer)
        assert text.startswith(f"{tool}: no connection to the bus: cannot reach the bus at {NOWHERE}")
        assert "connection refused" in text
        assert "`agentbus up` starts a local one" in text
        assert "--nats-url" in text


async def test_the_tools_work_once_the_bus_is_up(era: str, tmp_path: Path) -> None:
    async with run_server(store=tmp_path, port=free_port()) as first, connect(first.url) as coordinator:
        url, port = first.url, int(first.url.rpartition(":")[2])
        await set_up(coordinator.bus)
    async with in_memory(url, era) as client:
        error_of(await client.call_tool("publish_task", TASK))
        async with run_server(store=tmp_path, port=port):
            data = data_of(await client.call_tool("publish_task", TASK))
            assert data["published"][0]["state"] == "queued"


@pytest.mark.gate("2026")
async def test_a_restart_of_the_bus_does_not_end_a_watch(era: str, tmp_path: Path) -> None:
    server = await start_server(store=tmp_path, port=free_port())
    try:
        port = int(server.url.rpartition(":")[2])
        async with (
            connect(server.url) as coordinator,
            in_memory(server.url, era) as client,
            in_memory(server.url, era) as other,
        ):
            await set_up(coordinator.bus)
            await coordinator.publish("code", "work", task_type="test", task_id="a")
            by_id = asyncio.create_task(client.call_tool("watch_results", {"task_ids": ["a"], "timeout_seconds": 120}))
            inbox = asyncio.create_task(other.call_tool("watch_results", {"timeout_seconds": 120}))
            await until_watched(coordinator.bus, "KV_AGENT_STATE")
            await until_watched(coordinator.bus, "AGENT_RESULTS")
            server.kill()
            # This call waits for a connection until its time-out, so the outage lasts for some seconds.
            assert "no connection to" in error_of(await other.call_tool("list_tasks", {}))
            server = await start_server(store=tmp_path, port=port)
            async with connect(server.url) as fresh:
                await settle(fresh, "a", "after the restart")
            for answer in (await by_id, await inbox):
                assert [result["output"] for result in data_of(answer)["results"]] == ["after the restart"]
    finally:
        await server.stop()


@pytest.mark.gate("2026")
async def test_refused_credentials_are_reported_and_tried_again_at_the_next_call(era: str, tmp_path: Path) -> None:
    config = tmp_path / "password.conf"

    port = free_port()
    url = f"nats://main:secret@127.0.0.1:{port}"

    def write_config(password: str) -> None:
        config.write_text(
            f"listen: 127.0.0.1:{port}\n"
            f"jetstream {{ store_dir: {json.dumps(str(tmp_path / 'store'))} }}\n"
            f"authorization {{ users: [{{user: main, password: {password}}}] }}\n",
            encoding="utf-8",
        )

    write_config("other")
    async with run_server(store=tmp_path / "store", config=config) as server, in_memory(url, era) as client:
        text = error_of(await client.call_tool("get_results", {}))
        assert "refused the credentials of the user main" in text
        assert "secret" not in text
        await server.stop()
        write_config("secret")
        async with run_server(store=tmp_path / "store", config=config), connect(url) as coordinator:
            await set_up(coordinator.bus)
            assert data_of(await client.call_tool("get_results", {}))["results"] == []
