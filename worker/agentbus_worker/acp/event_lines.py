"""Writes what happens in the conversation with an agent to standard output: a line of JSON each, of bounded length."""

import asyncio
import contextlib
import json
import os
from typing import Any, Final, cast

from agentbus_worker.acp.json_values import Json

_MAX_TEXT_CHARS: Final = 16_384
"""Of the output of a tool, a difference, an error. The text of an answer is not cut."""
_MAX_ITEMS: Final = 200
_MAX_DEPTH: Final = 12
_MESSAGES: Final = ("agent_message_chunk", "agent_thought_chunk")


class EventLines:
    """Writes the lines. A worker that does not read holds up the agent, and not the driver."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, kind: str, **fields: Json) -> None:
        """Write a line; `kind` says what has happened.

        Raises:
            ConnectionError: the worker is gone.
        """
        known = {name: bounded(value) for name, value in fields.items() if value is not None}
        await self._write({"acp": kind, **known})

    async def update(self, update: dict[str, Json]) -> None:
        """Write an update of the session as the agent has sent it. The text of an answer stays whole."""
        content = update.get("content")
        if update.get("sessionUpdate") in _MESSAGES and isinstance(content, dict):
            text = cast("dict[str, Any]", content).get("text")
            if isinstance(text, str):
                kept: dict[str, Json] = {
                    **bounded({**update, "content": None}),
                    "content": {"type": "text", "text": text},
                }
                await self._write({"acp": "update", "update": kept})
                return
        await self.write("update", update=update)

    async def close(self) -> None:
        """Wait until all is written."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _write(self, value: dict[str, Json]) -> None:
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        self._writer.write(line + b"\n")
        await self._writer.drain()


def bounded(value: Json, depth: int = 0) -> Json:
    """Return a JSON value with long texts cut, and with few items in each list and object."""
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT_CHARS else value[:_MAX_TEXT_CHARS] + "…"
    if isinstance(value, dict):
        if depth >= _MAX_DEPTH:
            return {}
        items = list(cast("dict[str, Any]", value).items())[:_MAX_ITEMS]
        return {name[:_MAX_TEXT_CHARS]: bounded(item, depth + 1) for name, item in items}
    if isinstance(value, list):
        found = cast("list[Any]", value)[:_MAX_ITEMS]
        return [] if depth >= _MAX_DEPTH else [bounded(item, depth + 1) for item in found]
    return value


async def standard_output() -> asyncio.StreamWriter:
    """Return standard output, a pipe, as a stream."""
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(1, "wb", 0)
    # This protocol, though nothing is read: it is the one that can wait until all is written.
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipe
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)
