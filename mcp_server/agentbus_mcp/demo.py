"""The MCP client of `agentbus demo`: starts the server over stdio, as an MCP host does."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters, stdio_client


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the client received: the tools, and the answers to publish_task and watch_results."""

    tools: list[str]
    published: dict[str, Any]
    watched: dict[str, Any]


async def publish_and_watch(url: str, *, to: list[str], content: str, task_type: str) -> Transcript:
    """Start `agentbus-mcp` as a child, give a task to agents through it, and wait for their results."""
    server = StdioServerParameters(command=sys.executable, args=["-m", "agentbus_mcp", "--nats-url", url])
    with Path(os.devnull).open("w", encoding="utf-8") as devnull:  # noqa: ASYNC230  # its log would interrupt the demo
        return await _use(Client(stdio_client(server, errlog=devnull)), to, content, task_type)


async def _use(client: Client, to: list[str], content: str, task_type: str) -> Transcript:
    async with client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        published = await client.call_tool("publish_task", {"to": to, "content": content, "task_type": task_type})
        answer: dict[str, Any] = published.structured_content or {}
        tasks: list[dict[str, Any]] = answer.get("published", [])
        wait = {"task_ids": [task["task_id"] for task in tasks], "timeout_seconds": 30}
        watched = await client.call_tool("watch_results", wait)
        return Transcript(tools, answer, watched.structured_content or {})
