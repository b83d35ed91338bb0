"""Serves one client over standard input and output."""

import logging

import anyio

from agentbus.config.connection_settings import ConnectionSettings
from agentbus.protocol.roles import Role
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.transports.lifecycle import end, load, termination

log = logging.getLogger("agentbus.mcp")


def serve(settings: ConnectionSettings, agent: str, role: Role | None = None) -> None:
    """Serve one client until it closes standard input, or until SIGTERM or SIGINT."""
    try:
        anyio.run(_serve, settings, agent, role)
    except* BrokenPipeError:
        log.info("the client closed standard output")


async def _serve(settings: ConnectionSettings, agent: str, role: Role | None) -> None:
    bus_link = BusLink(settings, agent, role)
    async with anyio.create_task_group() as group:
        group.start_soon(_end_on_signal, bus_link)
        async with bus_link.open():
            server = await load(bus_link)
            await server.run_stdio_async()
        end()


async def _end_on_signal(bus_link: BusLink) -> None:
    with termination() as requested:
        await requested.wait()
        await bus_link.close()
        end()
