"""Another agent writes a task of the same id: the calls, links and MCP tasks that answers hand out go on for theirs."""

import json
from functools import partial
from typing import Any

import pytest
from mcp import Client

from agentbus import Coordinator
from agentbus.protocol import subjects
from agentbus.protocol.messages import Task, decode_task
from agentbus.protocol.task_names import TaskName
from agentbus.provision.nats_server import NatsServer
from agentbus_mcp import uris
from support.mcp_harness import both_eras, data_of, error_of, in_memory, links_of, settle
from support.mcp_task_client import knowing_tasks

JOB: dict[str, Any] = {"to": "code", "content": "work", "task_type": "test", "task_id": "job"}


async def copy_for_another_agent(coordinator: Coordinator, task_id: str = "job") -> None:
    """Write the entry of a task of code under the keys of doc, as the workers of doc may."""
    message = await coordinator.bus.last_message(subjects.STATE_STREAM, f"$KV.AGENT_STATE.code.{task_id}")
    assert message is not None
    await coordinator.bus.store(f"$KV.AGENT_STATE.doc.{task_id}", message.data)


async def follow(client: Client, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make the call that an answer says is next."""
    return data_of(await client.call_tool(data["next"]["tool"], {**data["next"]["arguments"], **more}))


@both_eras
async def test_every_next_call_goes_on_for_a_task_whose_id_another_agent_has_too(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with in_memory(server.url, era) as client:
        published = data_of(await client.call_tool("publish_task", JOB))
        await copy_for_another_agent(coordinator)
        ambiguous = error_of(await client.call_tool("get_task", {"task_id": "job"}))
        pending = await follow(client, published, timeout_seconds=0)
        looked = data_of(await client.call_tool("get_task", {"task_id": "code/job"}))
        for answer in (pending, looked):
            assert (await follow(client, answer, timeout_seconds=0))["pending"][0]["agent"] == "code"
        await settle(coordinator, "job", "x" * 20_000)
        whole = await client.call_tool("get_results", {"task_ids": ["code/job"]})
        settled = data_of(whole)
        rest = await follow(client, settled)
        [link] = links_of(whole)
        read = await client.read_resource(link)
        cancelled = data_of(await client.call_tool("cancel_task", {"task_ids": ["code/job"]}))
    assert "several agents have a task job" in ambiguous
    assert settled["results"][0]["output"] + rest["results"][0]["output"] == "x" * 20_000
    assert link == "agentbus://tasks/code/job"
    assert json.loads(read.contents[0].model_dump()["text"])["agent"] == "code"
    assert cancelled["tasks"][0]["effect"] == "too late: it has its result, and keeps it"


@both_eras
async def test_an_approval_is_answered_though_another_agent_has_the_id_too(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="risky")
    await settle(coordinator, "risky", "may I?", status="needs_approval", task=await stored_task(coordinator))
    await copy_for_another_agent(coordinator, "risky")
    async with in_memory(server.url, era) as client:
        seen = data_of(await client.call_tool("get_task", {"task_id": "code/risky"}))
        answered = await follow(client, seen, approve=True)
        await copy_for_another_agent(coordinator, "risky.answer")
        waiting = await follow(client, answered, timeout_seconds=0)
        after = await follow(client, data_of(await client.call_tool("get_task", {"task_id": "code/risky"})))
    assert (answered["task_id"], answered["agent"]) == ("risky.answer", "code")
    assert waiting["pending"][0]["task_id"] == after["task_id"] == "risky.answer"


async def stored_task(coordinator: Coordinator) -> Task:
    message = await coordinator.bus.last_message(subjects.TASKS_STREAM, "agent.code.tasks")
    assert message is not None
    return decode_task(message.data)


@both_eras
async def test_names_and_ids_stand_in_one_call_and_each_task_is_answered_once(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for agent in ("code", "doc"):
        await coordinator.publish(agent, "work", task_type="test", task_id=f"of-{agent}")
        await settle(coordinator, f"of-{agent}", f"by {agent}", agent=agent)
    async with in_memory(server.url, era) as client:
        call = {"task_ids": ["of-code", "code/of-code", "agent-doc/of-doc"]}
        data = data_of(await client.call_tool("get_results", call))
        other = data_of(await client.call_tool("get_results", {**call, "agent": "code"}))
    assert [result["output"] for result in data["results"]] == ["by code", "by doc"]
    assert [result["output"] for result in other["results"]] == ["by code"]
    assert other["unknown"] == [
        {
            "task_id": "agent-doc/of-doc",
            "error": "doc/of-doc is not a task of the agent code: leave out one of the two",
        }
    ]


async def test_an_mcp_task_waits_for_the_agents_task_that_it_began_with(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="job")
    async with knowing_tasks(partial(in_memory, server.url)) as tasks:
        begun = await tasks.call("watch_results", {"task_ids": ["job"]})
        await copy_for_another_agent(coordinator)
        assert (await tasks.get(begun["taskId"]))["status"] == "working"
        await settle(coordinator, "job", "done")
        ended = await tasks.get(begun["taskId"])
    assert ended["status"] == "completed"
    assert ended["result"]["structuredContent"]["results"][0]["output"] == "done"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("agentbus://tasks/job", "job"),
        ("agentbus://tasks/code/job", "code/job"),
        ("agentbus://tasks/agent-code/a.b", "code/a.b"),
        ("agentbus://tasks/code/a..b", None),
        ("agentbus://tasks/co.de/job", None),
        ("agentbus://tasks/code/job/more", None),
        ("agentbus://tasks//job", None),
    ],
)
def test_the_uri_of_a_task_may_name_its_agent(uri: str, name: str | None) -> None:
    assert uris.parse(uri) == (None if name is None else uris.ResourceId("task", name))


def test_the_uri_of_a_name_is_read_as_that_name() -> None:
    name = TaskName("a.b", "code")
    assert uris.parse(uris.task(name)) == uris.ResourceId("task", str(name))
