"""Serves one client over standard input and output."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import anyio

from agentbus.config.connection_settings import ConnectionSettings
from agentbus.errors import ConfigError
from agentbus.notify.session_tasks import PublishedTasks
from agentbus.protocol.roles import Role
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.transports.lifecycle import end, load, termination

if TYPE_CHECKING:
    from agentbus_mcp.transports.message_lines import MessageLines

log = logging.getLogger("agentbus.mcp")

_ANSWERS_S: Final = 0.5
"""How long calls may take to be answered after a signal; what they have begun at the bus is finished after that."""
_EXIT_S: Final = 1.8
"""When the process exits after a signal in any case: hosts kill it two seconds after SIGTERM."""


def serve(settings: ConnectionSettings, agent: str, role: Role | None = None, folders: Sequence[Path] = ()) -> None:
    """Serve one client until it closes standard input, or until SIGTERM or SIGINT.

    What was read before that is answered: see `MessageLines`.

    Raises:
        ConfigError: standard input or output is closed.
    """
    for name, stream in (("input", sys.__stdin__), ("output", sys.__stdout__)):
        if stream is None:
            raise ConfigError(f"standard {name} is closed; an MCP client and this server talk over it")
    source = os.fdopen(_claim(0, os.open(os.devnull, os.O_RDONLY)), "rb")
    sink = os.fdopen(_claim(1, os.dup(2)), "wb")
    try:
        link = BusLink(settings, agent, role, folders=folders, published=PublishedTasks(agent))
        anyio.run(_serve, link, source, sink)
    except* BrokenPipeError:
        log.info("the client closed standard output")
    except* OSError as errors:
        failed: BaseException = errors
        while isinstance(failed, BaseExceptionGroup):
            failed = failed.exceptions[0]
        log.error("standard output cannot be written to: %s", failed)
        end(1)
    end()


async def _serve(bus_link: BusLink, source: BinaryIO, sink: BinaryIO) -> None:
    with termination() as requested:
        async with anyio.create_task_group() as group:
            group.start_soon(_end_after_signal, requested)
            async with bus_link.open():
                server = await load(bus_link)
                # With the SDK, which `load` has imported in a thread.
                from agentbus_mcp import sdk  # noqa: PLC0415
                from agentbus_mcp.transports.message_lines import MessageLines  # noqa: PLC0415

                lines = MessageLines(source, sink)
                group.start_soon(_stop_on_signal, requested, lines)
                async with lines.open(server.end_waits) as (messages, answers):
                    await sdk.serve_streams(server, messages, answers)
            end()


async def _stop_on_signal(requested: asyncio.Event, lines: "MessageLines") -> None:
    await requested.wait()
    lines.stop(_ANSWERS_S)


async def _end_after_signal(requested: asyncio.Event) -> None:
    await requested.wait()
    await anyio.sleep(_EXIT_S)
    end()


def _claim(descriptor: int, other: int) -> int:
    """Move a standard stream to a descriptor of our own, which is returned, and put another file in its place.

    So what else reads or prints in this process misses the protocol: it is at the end of a file, or on standard error.
    """
    private = os.dup(descriptor)
    os.dup2(other, descriptor)
    os.close(other)
    return private
