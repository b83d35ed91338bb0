"""Times the MCP server from process start to its first answer over stdio, against the import of the MCP SDK."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import bus
from benchmarks.harness import Row, Size, at_most, compared, interleaved

_SERVER: Final = str(Path(sys.executable).with_name("agentbus-mcp"))
_NOWHERE: Final = "nats://127.0.0.1:1"
_VERSION: Final = "2026-07-28"
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": _VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
FIRST_REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "initialize": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "benchmark", "version": "1"},
        },
    },
    "server/discover": {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": _META}},
}


async def measure(size: Size) -> list[Row]:
    rows: list[Row] = []
    async with bus() as (server, _, _):
        for method in FIRST_REQUESTS:
            for state, url in (("up", server.url), ("down", _NOWHERE)):

                async def ours(method: str = method, url: str = url) -> float:
                    return await first_answer(method, url)

                await ours()
                await sdk_import()
                pairs = await interleaved(ours, sdk_import, size.turns)
                rows.append(compared("handshake", f"{method} answered, the bus is {state}", "ms", pairs, at_most(1.15)))
    return rows


async def first_answer(method: str, nats_url: str) -> float:
    """Return the milliseconds from the start of a server to its answer to the first request, sent at once."""
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        _SERVER,
        "--nats-url",
        nats_url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(FIRST_REQUESTS[method]).encode() + b"\n")
    answer = await process.stdout.readline()
    took = (time.perf_counter() - start) * 1000
    process.stdin.close()
    await process.wait()
    if "result" not in json.loads(answer):
        raise RuntimeError(f"{method} was answered with {answer.decode()}")
    return took


async def sdk_import() -> float:
    """Return the milliseconds for which Python runs to import the SDK's server and exit."""
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "from mcp.server import MCPServer")
    if await process.wait():
        raise RuntimeError("the MCP SDK cannot be imported")
    return (time.perf_counter() - start) * 1000
