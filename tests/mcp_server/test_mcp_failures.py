"""Error answers over a real bus: each names its cause and what to do, in both protocol eras."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer, start_server
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.publish import max_task_bytes
from support.free_ports import free_port
from support.mcp_harness import both_eras, data_of, error_of, in_memory, put, result_message, settle
from support.restricted import READ_LEDGER, only, restricted_bus

pytestmark = both_eras

TASK: dict[str, Any] = {"to": ["code"], "content": "work", "task_type": "test"}


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that must fail; return its text, which is one line and names the tool and no exception."""
    text = error_of(await client.call_tool(tool, arguments))
    assert text.isprintable()
    assert text.startswith(f"{tool}: ")
    assert "Error" not in text
    assert "Traceback" not in text
    return text


async def test_a_task_that_is_too_large_is_named_with_its_size_and_the_limit(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    limit = max_task_bytes(coordinator.bus)
    async with in_memory(server.url, era) as client:
        text = await refused(client, "publish_task", **TASK | {"content": "x" * limit})
    assert f"bytes; this bus takes up to {limit}. Put the bulk where the agent can fetch it" in text


@pytest.mark.gate("2026")
async def test_a_bus_that_is_not_set_up_names_the_command_that_does_it(era: str, server: NatsServer) -> None:
    async with in_memory(server.url, era) as client:
        texts = [
            await refused(client, "publish_task", **TASK),
            await refused(client, "get_results"),
            await refused(client, "watch_results"),
            await refused(client, "list_tasks"),
            await refused(client, "list_agents"),
        ]
    for text in texts:
        assert "agentbus setup" in text
        assert "Tell the user" in text


async def test_a_full_stream_is_named_with_what_to_do(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    config = (await coordinator.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
    await coordinator.bus.api("STREAM.UPDATE.AGENT_TASKS", {**config, "max_msgs": 1})
    async with in_memory(server.url, era) as client:
        data_of(await client.call_tool("publish_task", TASK))
        text = await refused(client, "publish_task", **TASK)
    assert "full" in text
    assert "call again once there is room" in text


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncGenerator[str]:
    """The URL of a bus on which the user may read the ledger and nothing else."""
    async with restricted_bus(tmp_path, {"main": only(READ_LEDGER)}) as bus:
        await bus.admin.publish("code", "work", task_type="test", task_id="a")
        yield bus.url("main")


async def test_a_missing_permission_is_named_and_the_rest_works(era: str, guarded: str) -> None:
    async with in_memory(guarded, era) as client:
        texts = {
            tool: await refused(client, tool, **arguments)
            for tool, arguments in {
                "publish_task": TASK,
                "get_results": {},
                "watch_results": {},
                "list_agents": {},
                "cancel_task": {"task_ids": ["a"]},
            }.items()
        }
        # This user may not read which workers are online; the task is shown without that.
        task = data_of(await client.call_tool("get_task", {"task_id": "a"}))
        watched = data_of(await client.call_tool("watch_results", {"task_ids": ["a"], "timeout_seconds": 0}))
        listed = data_of(await client.call_tool("list_tasks", {}))
    for text in texts.values():
        assert "does not allow this user to" in text
        assert "Tell the user, and do not try another way around it" in text
    assert (task["state"], listed["tasks"][0]["task_id"]) == ("queued", "a")
    assert [one["state"] for one in watched["pending"]] == ["queued"]
    assert "online" not in task
    assert "online" not in watched["pending"][0]


@pytest.mark.gate("2026")
async def test_a_watch_during_an_outage_ends_with_the_states_read_last(era: str, tmp_path: Path) -> None:
    server = await start_server(store=tmp_path, port=free_port())
    try:
        async with connect(server.url) as coordinator, in_memory(server.url, era) as client:
            await set_up(coordinator.bus)
            await coordinator.publish("code", "work", task_type="test", task_id="a")
            watching = asyncio.Event()

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                watching.set()

            call = client.call_tool(
                "watch_results", {"task_ids": ["a"], "timeout_seconds": 3}, progress_callback=on_progress
            )
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(call)
                await watching.wait()
                server.kill()
            data = data_of(watch.result())
            text = await refused(client, "get_task", task_id="a")
        assert [task["state"] for task in data["pending"]] == ["queued"]
        assert data["note"] == "the bus was away when the time was over; the states are those seen last"
        assert data["next"] == {"tool": "watch_results", "arguments": {"task_ids": ["code/a"]}}
        assert "no connection to" in text
        assert "call again" in text
    finally:
        await server.stop()


async def test_a_cursor_stays_valid_across_restarts_of_the_server_and_the_client(era: str, tmp_path: Path) -> None:
    server = await start_server(store=tmp_path, port=free_port())
    try:
        port = int(server.url.rpartition(":")[2])
        async with connect(server.url) as coordinator:
            await set_up(coordinator.bus)
            await put(coordinator, result_message("before", "1"))
            async with in_memory(server.url, era) as client:
                first = data_of(await client.call_tool("watch_results", {"cursor": 0}))
            await put(coordinator, result_message("meanwhile", "2"))
        server.kill()
        server = await start_server(store=tmp_path, port=port)
        async with connect(server.url) as coordinator, in_memory(server.url, era) as client:
            await put(coordinator, result_message("after", "3"))
            second = data_of(await client.call_tool(first["next"]["tool"], first["next"]["arguments"]))
        assert [result["task_id"] for result in first["results"]] == ["before"]
        assert [result["task_id"] for result in second["results"]] == ["meanwhile", "after"]
    finally:
        await server.stop()


async def test_a_cursor_of_another_bus_is_refused_instead_of_waited_for(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with in_memory(server.url, era) as client:
        text = await refused(client, "watch_results", cursor=77)
    assert "cursor: 77 is beyond the end of the inbox (0)" in text
    assert "Leave it out" in text


async def test_an_unreadable_ledger_entry_is_named_and_the_others_are_shown(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="good")
    await settle(coordinator, "good")
    await coordinator.bus.store("$KV.AGENT_STATE.code.bad", b"\x1b nonsense")
    async with in_memory(server.url, era) as client:
        data = data_of(await client.call_tool("get_results", {"task_ids": ["good", "bad"]}))
        alone = await refused(client, "get_task", task_id="bad")
        listed = data_of(await client.call_tool("list_tasks", {}))
    assert [result["task_id"] for result in data["results"]] == ["good"]
    assert "the ledger entry of bad (agent code) cannot be read" in data["unknown"][0]["error"]
    assert "cannot be read" in alone
    assert [task["task_id"] for task in listed["tasks"]] == ["good"]
    assert "bad" in listed["unreadable"][0]


@pytest.mark.parametrize(
    "bad",
    [
        {"state": "completed", "result": {}},
        {"state": "completed", "result": None},
        {"state": "failed", "result": {"id": "x" * 100_000, "type": "task.result", "status": "failed", "task": {}}},
        {"inbox": " "},
        {"inbox": "main\r\nX: y"},
        {"retry_after_s": 1e300},
    ],
)
async def test_a_worker_that_spoils_the_entry_of_its_own_task_spoils_no_other_answer_of_a_call(
    era: str, server: NatsServer, coordinator: Coordinator, bad: dict[str, Any]
) -> None:
    for task_id in ("good", "bad"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    await settle(coordinator, "good")
    found = await Ledger(coordinator.bus).read(TaskKey("code", "bad"))
    assert isinstance(found, Record)
    spoiled = {**found.entry.model_dump(exclude_none=True), **bad}
    await coordinator.bus.store(subjects.state(TaskKey("code", "bad")), encode(spoiled))
    ids = {"task_ids": ["good", "bad"]}
    async with in_memory(server.url, era) as client:
        async with asyncio.timeout(60):
            for tool, more in (("get_results", {}), ("watch_results", {"timeout_seconds": 20})):
                data = data_of(await client.call_tool(tool, {**ids, **more}))
                assert [one["task_id"] for one in data["results"]] == ["good"], tool
                assert "cannot be read" in data["unknown"][0]["error"], tool
            await client.call_tool("cancel_task", ids)
