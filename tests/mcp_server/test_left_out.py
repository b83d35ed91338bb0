"""Null, and the text "null", for what is left out: in every argument that a tool or a prompt can do without."""

import asyncio
import json
from typing import Any

import pytest
from mcp import Client

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S
from support.mcp_harness import INITIALIZE, NOWHERE, both_eras, data_of, error_of, in_memory, raw_server, settle

REQUIRED: dict[str, dict[str, Any]] = {
    "publish_task": {"to": ["code"], "content": "x", "task_type": "test"},
    "watch_results": {"timeout_seconds": 0},
    "get_results": {},
    "get_task": {"task_id": "done"},
    "list_tasks": {},
    "list_agents": {},
    "cancel_task": {"task_ids": ["done"]},
    "answer_approval": {"task_id": "asks", "approve": True},
}


async def call_with(client: Client, tool: str, value: Any) -> dict[str, Any]:
    """Call a tool with a value in each argument that it can do without."""
    [schema] = [one.input_schema for one in (await client.list_tools()).tools if one.name == tool]
    optional = dict.fromkeys(schema["properties"].keys() - set(schema.get("required", ())), value)
    return data_of(await client.call_tool(tool, {**optional, **REQUIRED[tool]}))


@both_eras
@pytest.mark.parametrize("value", [None, "null"])
async def test_every_tool_takes_null_for_every_argument_that_it_can_do_without(
    era: str, value: Any, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="done")
    await settle(coordinator, "done")
    asks = await coordinator.publish("code", "work", task_type="test", task_id="asks")
    await settle(coordinator, "asks", "status=needs_approval", status="needs_approval", task=asks.message)
    async with in_memory(server.url, era) as client:
        answers = {tool: await call_with(client, tool, value) for tool in REQUIRED}
    assert len(answers["get_results"]["results"]) == 2
    assert [task["state"] for task in answers["publish_task"]["published"]] == ["queued"]
    published = (await coordinator.task(answers["publish_task"]["published"][0]["task_id"]).status()).record.entry
    assert published.inbox == "main"


async def test_no_ids_are_the_inbox(server: NatsServer, coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="done")
    await settle(coordinator, "done")
    async with in_memory(server.url) as client:
        for ids in (None, "null", ["null"], [None], '["null"]', "[null]"):
            found = data_of(await client.call_tool("get_results", {"task_ids": ids}))
            assert [result["task_id"] for result in found["results"]] == ["done"], ids


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("publish_task", {"to": None}, "to: should be a valid list"),
        ("publish_task", {"to": "null"}, "to: should be a valid list"),
        ("publish_task", {"to": ["null"]}, "'null' names nothing"),
        ("publish_task", {"to": ["code", "null"]}, "'null' names nothing"),
        ("publish_task", {"content": None}, "content: is empty; say what to do"),
        ("get_task", {"task_id": "null"}, "'null' names nothing"),
        ("get_task", {"task_id": None}, "task_id: should be a valid string"),
        ("cancel_task", {"task_ids": ["null"]}, "'null' names nothing"),
        ("answer_approval", {"approve": None}, "approve: should be a valid boolean"),
        ("list_agents", {"agents": None}, "list_agents has no argument 'agents'"),
    ],
    ids=str,
)
async def test_null_for_what_a_tool_needs_is_refused(tool: str, arguments: dict[str, Any], said: str) -> None:
    async with in_memory(NOWHERE) as client:
        assert said in error_of(await client.call_tool(tool, {**REQUIRED[tool], **arguments}))


@pytest.mark.posix("standard input and output")
async def test_every_prompt_takes_null_for_every_argument_that_it_can_do_without() -> None:
    """Over bare pipes: the SDK's client sends text only."""
    asked: list[tuple[str, Any]] = [
        ("delegate", {"work": "x"}),
        ("delegate", {"work": "x", "to": None}),
        ("delegate", {"work": "x", "to": "null"}),
        ("collect", None),
        ("collect", {}),
        ("collect", {"task_ids": None}),
        ("collect", {"task_ids": "null"}),
        ("delegate", {"work": None}),
    ]
    async with raw_server("--nats-url", NOWHERE) as process:
        assert process.stdin
        assert process.stdout
        requests = [
            {"jsonrpc": "2.0", "id": number, "method": "prompts/get", "params": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(asked)
        ]
        process.stdin.write(b"".join(json.dumps(one).encode() + b"\n" for one in [INITIALIZE, *requests]))
        process.stdin.close()
        async with asyncio.timeout(BOUND_S):
            said = [json.loads(line) for line in (await process.stdout.read()).splitlines()]
    assert said[0]["id"] == INITIALIZE["id"]
    answers = sorted(said[1:], key=lambda answer: answer["id"])
    texts = [answer["result"]["messages"][0]["content"]["text"] for answer in answers[:-1]]
    assert texts[:3] == texts[:1] * 3
    assert texts[3:] == texts[3:4] * 4
    assert "work is missing" in answers[-1]["error"]["message"]
