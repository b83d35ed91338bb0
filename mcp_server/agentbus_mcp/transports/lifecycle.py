"""Starts and ends a server process, for both transports."""

import asyncio
import gc
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

from anyio import to_thread

from agentbus.observability import tracing
from agentbus_mcp import logs
from agentbus_mcp.bus_link import BusLink

if TYPE_CHECKING:
    from agentbus_mcp.server import Server

_FLUSH_S: Final = 0.5
"""How long exporting the last spans may take."""


async def load(bus_link: BusLink) -> "Server":
    """Import the MCP SDK and build the server in a thread, while the bus is dialled: the import is slow."""
    return await to_thread.run_sync(_load, bus_link)


def _load(bus_link: BusLink) -> "Server":
    # Imports make no garbage, so collections would only take time.
    gc.disable()
    from agentbus_mcp.server import create_server  # noqa: PLC0415

    server = create_server(bus_link)
    gc.freeze()
    gc.enable()
    return server


@contextmanager
def termination() -> Generator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set. Unlike the handlers of a loop, this works on Windows too."""
    loop, requested = asyncio.get_running_loop(), asyncio.Event()

    def request(*_: object) -> None:
        loop.call_soon_threadsafe(requested.set)

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(code: int = 0) -> NoReturn:
    """Exit at once: threads that read standard input or resolve a name cannot be interrupted."""
    tracing.flush(_FLUSH_S)
    logs.flush()
    os._exit(code)
