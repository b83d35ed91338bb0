"""What a client is told of each tool, held by one committed snapshot a tool.

A change of a tool's name, texts or schemas fails here. To accept it:

    UPDATE_SNAPSHOTS=1 pytest tests/test_mcp_schemas.py
"""

import json
import os
from pathlib import Path

from agentbus_mcp.server import INSTRUCTIONS
from mcp_harness import NOWHERE, both_eras, in_memory

SNAPSHOTS = Path(__file__).with_name("snapshots") / "mcp"
HOST_LIMIT_CHARS = 2_048
"""Where hosts cut descriptions and instructions."""


@both_eras
async def test_the_tools_are_those_of_the_snapshots(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        tools = (await client.list_tools()).tools
    found = {tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools}
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(parents=True, exist_ok=True)
        for name, tool in found.items():
            (SNAPSHOTS / f"{name}.json").write_text(json.dumps(tool, indent=2, ensure_ascii=False) + "\n")
    assert list(found) == ["publish_task", "watch_results", "get_results"]
    assert {path.stem for path in SNAPSHOTS.glob("*.json")} == set(found)
    for name, tool in found.items():
        assert tool == json.loads((SNAPSHOTS / f"{name}.json").read_text()), f"{name} has changed: see UPDATE_SNAPSHOTS"


async def test_every_tool_tells_a_model_what_it_needs() -> None:
    async with in_memory(NOWHERE) as client:
        tools = (await client.list_tools()).tools
        instructions = client.instructions
    assert instructions == INSTRUCTIONS
    assert len(INSTRUCTIONS) <= HOST_LIMIT_CHARS
    for tool in tools:
        assert tool.title
        assert tool.annotations
        assert tool.output_schema
        assert tool.description
        assert len(tool.description) <= HOST_LIMIT_CHARS
        assert tool.meta == {"anthropic/alwaysLoad": True}
        assert all(parameter.get("description") for parameter in tool.input_schema["properties"].values())
        assert tool.annotations.read_only_hint is (tool.name != "publish_task")
