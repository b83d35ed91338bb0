"""Reads the greeting of a NATS server: what it says of itself before anything is sent to it."""

import asyncio
import json
from typing import Any

from agentbus.protocol.json_codec import object_in


async def read_greeting(reader: asyncio.StreamReader, timeout_s: float) -> dict[str, Any]:
    """Return what the server says; nothing if it is no NATS server, or says nothing in time."""
    try:
        async with asyncio.timeout(timeout_s):
            line = await reader.readline()
    except (TimeoutError, ValueError, OSError):
        return {}
    verb, _, text = line.partition(b" ")
    try:
        return object_in(json.loads(text)) if verb == b"INFO" else {}
    except ValueError:
        return {}
