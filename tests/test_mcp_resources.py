"""The streams as resources, with clients of both protocol eras."""

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import TextResourceContents

from agentbus import Coordinator, connect
from agentbus.server import NatsServer, run_server
from agentbus.streams import set_up
from mcp_harness import NOWHERE, both_eras, in_memory, put, result_message, settle

pytestmark = both_eras

TASKS, RESULTS = "agentbus://streams/AGENT_TASKS", "agentbus://streams/AGENT_RESULTS"


async def read(client: Client, uri: str) -> dict[str, Any]:
    [content] = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "application/json"
    assert content.text.isprintable()
    return json.loads(content.text)


async def test_the_streams_are_listed_one_by_one(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        listed = (await client.list_resources()).resources
    assert [resource.uri for resource in listed] == [TASKS, RESULTS]
    assert all(resource.title and resource.description for resource in listed)


async def test_the_backlog_shows_its_state_consumers_and_newest_tasks(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    for number in range(12):
        await coordinator.publish("code", f"work {number}", task_type="test", task_id=f"t{number}")
    await coordinator.publish("doc", {"a": "\x1b" * 5_000}, task_type="test", payload_format="json", task_id="long")
    await coordinator.bus.store("agent.code.tasks", b"not a task")
    await coordinator.bus.api("STREAM.MSG.DELETE.AGENT_TASKS", {"seq": 12})
    async with in_memory(server.url, era) as client:
        account = await read(client, TASKS)
    assert account["stream"] == "AGENT_TASKS"
    state = account["state"]
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (13, 1, 14)
    [consumer] = account["consumers"]
    assert (consumer["name"], consumer["waiting_messages"]) == ("agent-code", 12)
    *tasks, long, invalid = account["newest"]
    assert [task["task_id"] for task in tasks] == [f"t{number}" for number in range(3, 11)]
    assert (tasks[0]["content"], tasks[0]["sender"], tasks[0]["subject"]) == (
        "work 3",
        "agent-main",
        "agent.code.tasks",
    )
    assert (long["payload_fmt"], long["truncated"], len(long["content"])) == ("json", True, 2048)
    assert "not JSON" in invalid["error"]


async def test_the_results_of_all_inboxes_are_shown(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    await settle(coordinator, "a", "x" * 3_000)
    await put(coordinator, result_message("b", "for ops"), inbox="ops")
    async with in_memory(server.url, era) as client:
        account = await read(client, RESULTS)
    assert account["state"]["messages"] == 2
    assert [(result["task_id"], result["output_bytes"]) for result in account["newest"]] == [("a", 3_000), ("b", 7)]
    assert len(account["newest"][0]["output"]) == 2_048
    assert account["consumers"] == []


async def test_an_empty_stream_has_no_newest(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    async with in_memory(server.url, era) as client:
        for uri in (TASKS, RESULTS):
            account = await read(client, uri)
            assert (account["state"]["messages"], account["newest"]) == (0, [])


async def test_without_a_bus_reading_says_what_to_do(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        with pytest.raises(MCPError, match=r"cannot reach the bus at .* `agentbus up` starts a local one"):
            await client.read_resource(TASKS)


async def test_without_set_up_reading_says_what_to_do(era: str, server: NatsServer) -> None:
    async with in_memory(server.url, era) as client:
        with pytest.raises(MCPError, match=r"the stream AGENT_TASKS does not exist .*agentbus setup"):
            await client.read_resource(TASKS)


async def test_an_unknown_stream_is_not_found(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        with pytest.raises(MCPError, match="Unknown resource"):
            await client.read_resource("agentbus://streams/KV_AGENT_STATE")


async def test_what_the_user_may_not_see_is_named(era: str, tmp_path: Path) -> None:
    """The least rights of a coordinator: its own inbox, and the state of the result stream."""
    allowed = [
        "$JS.API.STREAM.INFO.AGENT_RESULTS",
        "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.*.agent.main.results",
        "$JS.API.CONSUMER.MSG.NEXT.AGENT_RESULTS.*",
        "$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.*.*",
    ]
    config = tmp_path / "permissions.conf"
    config.write_text(
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {json.dumps(str(tmp_path))} }}\n"
        "authorization { users: [\n"
        "  { user: admin, password: a }\n"
        f"  {{ user: agent-main, password: m, permissions: {{ publish: {json.dumps(allowed)},"
        ' subscribe: "_INBOX_main.>" } }\n] }\n'
    )
    async with run_server(store=tmp_path, config=config) as server:
        address = server.url.removeprefix("nats://")
        async with connect(f"nats://admin:a@{address}") as admin:
            await set_up(admin.bus)
            await put(admin, result_message("mine", "hello"))
            await put(admin, result_message("other", "secret"), inbox="ops")
        async with in_memory(f"nats://agent-main:m@{address}", era) as client:
            tasks, results = await read(client, TASKS), await read(client, RESULTS)
    assert tasks == {"stream": "AGENT_TASKS", "not_permitted": ["state", "consumers", "newest"]}
    assert results["not_permitted"] == ["consumers"]
    assert [result["task_id"] for result in results["newest"]] == ["mine"]
    assert "secret" not in json.dumps(results)
