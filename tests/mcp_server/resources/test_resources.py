"""The resources, with clients of both protocol eras: their contents, their list and their completions."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import ResourceTemplateReference, TextResourceContents

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.presence import announce
from support.harness import eventually
from support.mcp_harness import (
    AGENTS,
    INBOX,
    NOWHERE,
    RESULTS,
    TASKS,
    both_eras,
    in_memory,
    put,
    result_message,
    settle,
    worker_of,
)
from support.restricted import only, restricted_bus

pytestmark = both_eras

ALWAYS = [AGENTS, INBOX, TASKS, RESULTS, "agentbus://questions"]


async def read(client: Client, uri: str) -> dict[str, Any]:
    [content] = (await client.read_resource(uri, cache_mode="bypass")).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "application/json"
    assert content.text.isprintable()
    return json.loads(content.text)


# -- the list ---------------------------------------------------------------------------------------------------


async def test_the_fixed_resources_are_listed_at_once_without_a_bus(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        listed = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
    assert [resource.uri for resource in listed] == ALWAYS
    assert [template.uri_template for template in templates] == [
        "agentbus://agents/{agent}/results",
        "agentbus://tasks/{agent}/{task_id}",
        "agentbus://tasks/{agent}/~{owner}/{task_id}",
        "agentbus://tasks/{task_id}",
        "agentbus://streams/{stream}",
        "agentbus://tasks/{agent}/{task_id}/files/{name}",
        "agentbus://tasks/{agent}/~{owner}/{task_id}/files/{name}",
        "agentbus://tasks/{task_id}/files/{name}",
    ]
    assert all(item.title and item.description for item in [*listed, *templates])


async def listed_with(client: Client, cursor: str | None = None) -> tuple[list[str], str | None]:
    page = await client.list_resources(cursor=cursor, cache_mode="bypass")
    return [resource.uri for resource in page.resources], page.next_cursor


async def test_the_inboxes_of_online_agents_are_listed_in_pages(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    names = [f"agent{number:03}" for number in range(230)]
    await asyncio.gather(*(announce(coordinator.bus, worker_of(name)) for name in [*names, "main"]))
    async with in_memory(server.url, era) as client:
        await eventually(lambda: has_next(client), "the bus is connected")
        first, cursor = await listed_with(client)
        second, third = await listed_with(client, cursor)
        rest, end = await listed_with(client, third)
        with pytest.raises(MCPError, match="the cursor is not one that this server has given"):
            await listed_with(client, "nonsense!")
    assert first[:5] == ALWAYS
    assert [*first[5:], *second, *rest] == [f"agentbus://agents/{name}/results" for name in names]
    assert (len(first), len(second), end) == (100, 100, None)


async def has_next(client: Client) -> bool:
    return (await listed_with(client))[1] is not None


# -- completions ------------------------------------------------------------------------------------------------


async def completed(client: Client, template: str, argument: str, typed: str) -> list[str]:
    ref = ResourceTemplateReference(uri=template)
    return (await client.complete(ref, {"name": argument, "value": typed})).completion.values


async def test_agents_and_recent_tasks_are_completed(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["doc"])
    await announce(coordinator.bus, worker_of("code"))
    for task_id in ("task-1", "task-2", "other-task"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    await settle(coordinator, "task-1")
    async with in_memory(server.url, era) as client:
        inbox, task = "agentbus://agents/{agent}/results", "agentbus://tasks/{task_id}"
        agents = await eventually(lambda: completed(client, inbox, "agent", ""), "the bus is connected")
        assert agents == ["code", "doc", "main"]
        assert await completed(client, inbox, "agent", "CO") == ["code"]
        assert await completed(client, task, "task_id", "task") == ["task-1", "task-2", "other-task"]
        assert await completed(client, task, "task_id", "nope") == []
        assert await completed(client, "agentbus://streams/{stream}", "stream", "result") == ["AGENT_RESULTS"]


async def test_without_a_bus_completions_are_empty_and_immediate(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        assert await completed(client, "agentbus://tasks/{task_id}", "task_id", "t") == []


# -- agents, inboxes, tasks -------------------------------------------------------------------------------------


async def test_agents_are_shown_with_their_workers_and_backlog(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code", "doc"])
    await announce(coordinator.bus, worker_of("code", free=0, running=("task-1",), description="x" * 500))
    await coordinator.publish("doc", "work", task_type="test")
    async with in_memory(server.url, era) as client:
        code, doc = (await read(client, AGENTS))["agents"]
    assert (code["agent"], code["online"], code["waiting"]) == ("code", True, 0)
    assert (doc["agent"], doc["online"], doc["waiting"], doc["workers"]) == ("doc", False, 1, [])
    [worker] = code["workers"]
    assert (worker["free"], worker["running"], len(worker["description"])) == (0, ["task-1"], 200)


async def test_an_inbox_shows_its_newest_messages_and_the_cursor(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for number in range(12):
        await put(coordinator, result_message(f"t{number}", "mine"))
    await put(coordinator, result_message("other", "x" * 3_000), inbox="ops")
    async with in_memory(server.url, era) as client:
        mine, other = await read(client, INBOX), await read(client, "agentbus://agents/agent-ops/results")
        with pytest.raises(MCPError, match="agent id 'a b' is not valid"):
            await client.read_resource("agentbus://agents/a%20b/results")
    assert [result["task_id"] for result in mine["newest"]] == [f"t{number}" for number in range(2, 12)]
    assert (mine["agent"], mine["cursor"]) == ("main", 12)
    assert (other["agent"], len(other["newest"][0]["output"])) == ("ops", 2_048)


async def test_a_task_shows_its_state_and_then_its_result(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a.b")
    async with in_memory(server.url, era) as client:
        queued = await read(client, "agentbus://tasks/a.b")
        await settle(coordinator, "a.b", "done")
        settled = await read(client, "agentbus://tasks/a.b")
        with pytest.raises(MCPError, match="no task nope is known on this bus"):
            await client.read_resource("agentbus://tasks/nope")
    assert (queued["task_id"], queued["agent"], queued["state"]) == ("a.b", "code", "queued")
    assert "result" not in queued
    assert (settled["state"], settled["result"]["output"]) == ("completed", "done")


# -- the streams ------------------------------------------------------------------------------------------------


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
    waiting = {consumer["name"]: consumer["waiting_messages"] for consumer in account["consumers"]}
    assert waiting == {"agent-code": 12, "tasks-code": 0}
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


async def test_an_empty_stream_has_no_newest_messages(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    async with in_memory(server.url, era) as client:
        for uri in (TASKS, RESULTS):
            account = await read(client, uri)
            assert (account["state"]["messages"], account["newest"]) == (0, [])


async def test_without_a_bus_reading_says_what_to_do(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        reads = [client.read_resource(uri) for uri in (*ALWAYS, "agentbus://tasks/a")]
        for failure in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(failure, MCPError)
            assert f"cannot reach the bus at {NOWHERE}" in failure.message
            assert "`agentbus up` starts a local one" in failure.message


async def test_without_set_up_reading_says_what_to_do(era: str, server: NatsServer) -> None:
    async with in_memory(server.url, era) as client:
        with pytest.raises(MCPError, match=r"the stream AGENT_TASKS does not exist .*agentbus setup"):
            await client.read_resource(TASKS)


async def test_an_unknown_stream_is_not_found(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        with pytest.raises(MCPError, match="Unknown resource"):
            await client.read_resource("agentbus://streams/KV_AGENT_STATE")


async def test_what_the_user_may_not_read_is_named(era: str, tmp_path: Path) -> None:
    """The user has the least permissions of a coordinator: its own inbox, and the state of the result stream."""
    allowed = [
        "$JS.API.STREAM.INFO.AGENT_RESULTS",
        "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.*.agent.main.results",
        "$JS.API.CONSUMER.MSG.NEXT.AGENT_RESULTS.*",
        "$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.*.*",
    ]
    async with restricted_bus(tmp_path, {"agent-main": only(allowed)}) as bus:
        await put(bus.admin, result_message("mine", "hello"))
        await put(bus.admin, result_message("other", "secret"), inbox="ops")
        async with in_memory(bus.url("agent-main"), era) as client:
            tasks, results = await read(client, TASKS), await read(client, RESULTS)
    assert tasks == {"stream": "AGENT_TASKS", "not_permitted": ["state", "consumers", "newest"]}
    assert results["not_permitted"] == ["consumers"]
    assert [result["task_id"] for result in results["newest"]] == ["mine"]
    assert "secret" not in json.dumps(results)
