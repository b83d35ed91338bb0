"""The description of each tool that clients get, compared with one committed snapshot for each tool.

A change of a tool's name, texts or schemas fails here. To accept it:

    UPDATE_SNAPSHOTS=1 pytest tests/mcp_server/replies/test_schemas.py
"""

import json
import os

from agentbus_mcp.server import INSTRUCTIONS
from support.harness import ROOT
from support.mcp_harness import NOWHERE, both_eras, in_memory

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
]
AT_ONCE = TOOLS[:3]
"""The tools of the main job: hosts that load tools on demand load these at once."""
CHANGING = {"publish_task", "cancel_task", "answer_approval"}
LIST_BYTES = 12 * 1024
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
