"""The description of each tool that clients get, compared with one committed snapshot for each tool.

A change of a tool's name, texts or schemas fails here. To accept it:

    UPDATE_SNAPSHOTS=1 pytest tests/mcp_server/replies/test_schemas.py
"""

import json
import os
from typing import Any

from jsonschema import Draft202012Validator

from agentbus import Coordinator
from agentbus.protocol.messages import Failure
from agentbus.protocol.outcomes.run_report import Run, Usage
from agentbus.provision.nats_server import NatsServer
from agentbus_mcp.server import INSTRUCTIONS
from support.harness import ROOT
from support.mcp_harness import NOWHERE, both_eras, data_of, in_memory, settle

SNAPSHOTS = ROOT / "tests" / "snapshots" / "mcp"
TOOLS = [
    "publish_task",
    "watch_results",
    "get_results",
    "get_task",
    "list_tasks",
    "list_agents",
    "cancel_task",
    "answer_approval",
    "list_questions",
]
AT_ONCE = TOOLS[:3]
"""The tools of the main job: hosts that load tools on demand load these at once."""
CHANGING = {"publish_task", "cancel_task", "answer_approval"}
LIST_BYTES = 16 * 1024
"""Of all tools; those that hosts always load have half of it."""
HOST_LIMIT_CHARS = 2_048
"""The length at which hosts cut descriptions and instructions."""


@both_eras
async def test_the_tools_are_those_of_the_snapshots(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        tools = (await client.list_tools()).tools
    found = {tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools}
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(parents=True, exist_ok=True)
        for name, tool in found.items():
            (SNAPSHOTS / f"{name}.json").write_text(
                json.dumps(tool, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    assert list(found) == TOOLS
    assert {path.stem for path in SNAPSHOTS.glob("*.json")} == set(found)
    for name, tool in found.items():
        assert tool == json.loads((SNAPSHOTS / f"{name}.json").read_text(encoding="utf-8")), (
            f"{name} has changed: see UPDATE_SNAPSHOTS"
        )


async def test_every_tool_describes_itself_to_a_model() -> None:
    async with in_memory(NOWHERE) as client:
        tools = (await client.list_tools()).tools
        instructions = client.instructions
    assert instructions == INSTRUCTIONS
    assert len(INSTRUCTIONS) <= HOST_LIMIT_CHARS
    for tool in tools:
        assert tool.title
        assert tool.annotations
        assert tool.annotations.read_only_hint is (tool.name not in CHANGING)
        assert tool.description
        assert len(tool.description) <= HOST_LIMIT_CHARS
        assert "\n\nUse it " in tool.description or "Ask the user first" in tool.description
        assert any(f"{other} " in tool.description or f"{other}." in tool.description for other in {*TOOLS, "`next`"})
        assert (tool.meta == {"anthropic/alwaysLoad": True}) is (tool.name in AT_ONCE)


async def test_parameters_are_described_and_bounded() -> None:
    async with in_memory(NOWHERE) as client:
        tools = (await client.list_tools()).tools
    for tool in tools:
        for name, parameter in tool.input_schema["properties"].items():
            where = f"{tool.name} {name}: {parameter}"
            assert parameter.get("description"), where
            assert not {"$ref", "title"} & set(parameter), where
            if name == "content":
                continue  # any JSON; the bus bounds it
            kind = parameter["type"]
            if kind == "string":
                assert "enum" in parameter or "maxLength" in parameter, where
            elif kind in ("integer", "number"):
                assert {"minimum", "maximum"} <= set(parameter), where
            elif kind == "array":
                assert parameter["maxItems"] <= 32, where
                assert parameter["items"]["maxLength"], where
            else:
                assert kind == "boolean", where


async def test_answers_are_described_by_object_schemas() -> None:
    async with in_memory(NOWHERE) as client:
        tools = (await client.list_tools()).tools
    for tool in tools:
        assert tool.output_schema
        assert tool.output_schema["type"] == "object"
        assert tool.output_schema["properties"]


@both_eras
async def test_the_list_of_tools_is_small(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        tools = (await client.list_tools()).tools
    told = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
    assert len(json.dumps(told).encode()) <= LIST_BYTES
    assert len(json.dumps([tool for tool in told if tool["name"] in AT_ONCE]).encode()) <= LIST_BYTES // 2


@both_eras
async def test_the_schemas_of_answers_name_what_a_result_has_and_its_answers_keep_to_them(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    run = Run("claude", session="s", model="opus", usage=Usage(10, 4, 5), cost_usd=0.25)
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    failure = Failure("overloaded", "it is overloaded", 529, 2.5)
    await settle(coordinator, "a", status="failed", error="no", failure=failure, extra={"run": run.to_json()})
    async with in_memory(server.url, era) as client:
        schemas = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
        for tool, arguments in {
            "get_results": {"task_ids": ["a"], "response_format": "detailed"},
            "watch_results": {"task_ids": ["a"]},
            "get_task": {"task_id": "a"},
            "list_tasks": {},
            "publish_task": {"to": ["code"], "content": "again", "task_type": "test", "task_id": "b"},
        }.items():
            told = data_of(await client.call_tool(tool, arguments))
            validator: Any = Draft202012Validator(schemas[tool] or {})
            assert validator.is_valid(told), tool
    for tool in ("get_results", "watch_results"):
        fields = (schemas[tool] or {})["properties"]["results"]["items"]["properties"]
        assert set(fields["failure"]["properties"]) == {"code"}
        assert set(fields["tokens"]["properties"]) == {"input", "cached_input", "output"}
        assert (fields["cost_usd"]["type"], fields["model"]["type"]) == ("number", "string")
