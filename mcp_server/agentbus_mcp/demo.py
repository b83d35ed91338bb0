"""What `agentbus demo` shows of the MCP server: a client that starts it over stdio, as an MCP host does."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters, stdio_client


@dataclass(frozen=True, slots=True)
class Shown:
    """What the client has seen: the tools, the answer to a publication, the answer to the wait for it."""

    tools: list[str]
    published: dict[str, Any]
    watched: dict[str, Any]


async def publish_and_watch(url: str, *, to: list[str], content: str, task_type: str) -> Shown:
    """Start `agentbus-mcp` as a child, give a task to agents through it, and wait for their results."""
    server = StdioServerParameters(command=sys.executable, args=["-m", "agentbus_mcp", "--nats-url", url])
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:  # noqa: ASYNC230  # its log would stand in the middle of the story
        return await _use(Client(stdio_client(server, errlog=nowhere)), to, content, task_type)


async def _use(client: Client, to: list[str], content: str, task_type: str) -> Shown:
    async with client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        published = await client.call_tool("publish_task", {"to": to, "content": content, "task_type": task_type})
        answer: dict[str, Any] = published.structured_content or {}
        tasks: list[dict[str, Any]] = answer.get("published", [])
        wait = {"task_ids": [task["task_id"] for task in tasks], "timeout_seconds": 30}
        watched = await client.call_tool("watch_results", wait)
        return Shown(tools, answer, watched.structured_content or {})
