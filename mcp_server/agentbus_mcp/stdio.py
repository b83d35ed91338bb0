"""One server process on standard input and output: how it starts, and how it ends."""

import gc
import logging
import os
import signal
from typing import TYPE_CHECKING, NoReturn

import anyio
from anyio import to_thread

from agentbus.config import ConnectionSettings
from agentbus_mcp.link import Link

if TYPE_CHECKING:
    from agentbus_mcp.server import Server

log = logging.getLogger("agentbus.mcp")


def serve(settings: ConnectionSettings, agent: str) -> None:
    """Serve one client until it closes standard input, or SIGTERM or SIGINT comes; always in order."""
    try:
        anyio.run(_serve, settings, agent)
    except* BrokenPipeError:
        log.info("the client closed standard output")


async def _serve(settings: ConnectionSettings, agent: str) -> None:
    link = Link(settings, agent)
    async with anyio.create_task_group() as group:
        group.start_soon(_end_on_signal, link)
        async with link.open():
            # Loading the MCP SDK takes most of the start; the connection to the bus is made meanwhile.
            server = await to_thread.run_sync(_load, link)
            await server.run_stdio_async()
        _end()


def _load(link: Link) -> "Server":
    """Import the server and build it. Nothing of what an import makes is garbage, so nobody looks for any."""
    gc.disable()
    from agentbus_mcp.server import create_server  # noqa: PLC0415

    server = create_server(link)
    gc.freeze()
    gc.enable()
    return server


async def _end_on_signal(link: Link) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            await link.close()
            _end()


def _end() -> NoReturn:
    """End without waiting for threads that nothing can interrupt: they read standard input, or look up a name."""
    os._exit(0)
