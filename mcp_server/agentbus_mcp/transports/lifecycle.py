"""What both transports share of a server process: how it loads while the bus is dialled, and how it ends."""

import asyncio
import gc
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

from anyio import to_thread

from agentbus.observability import tracing
from agentbus_mcp.bus_link import BusLink

if TYPE_CHECKING:
    from agentbus_mcp.server import Server

_FLUSH_S: Final = 0.5
"""How long the spans of this process may take to get to their collector, at the end."""


async def load(bus_link: BusLink) -> "Server":
    """Import the MCP SDK, which takes most of the start, and build the server; the bus is dialled meanwhile."""
    return await to_thread.run_sync(_load, bus_link)


def _load(bus_link: BusLink) -> "Server":
    # Nothing of what an import makes is garbage, so nobody looks for any.
    gc.disable()
    from agentbus_mcp.server import create_server  # noqa: PLC0415

    server = create_server(bus_link)
    gc.freeze()
    gc.enable()
    return server


@contextmanager
def termination() -> Generator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set, inside the block. Unlike a loop's handlers it works on Windows as well."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def ask(*_: object) -> None:
        loop.call_soon_threadsafe(asked.set)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end() -> NoReturn:
    """End without waiting for threads that nothing can interrupt: they read standard input, or look up a name."""
    tracing.flush(_FLUSH_S)
    os._exit(0)
