"""Lists the resources in pages: the static ones, then the inboxes of the online agents by name."""

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ListResourcesResult, Resource

from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError
from agentbus.protocol import subjects
from agentbus.tasks.presence import Presence
from agentbus_mcp import uris
from agentbus_mcp.bus_link import BusLink

JSON_TYPE: Final = "application/json"
PAGE: Final = 100
"""How many resources one page of the list holds."""
_TIMEOUT_S: Final = 2.0
"""How long listing waits for the bus; without an answer, only the static resources are listed."""


async def list_page(bus_link: BusLink, static: Sequence[Resource], cursor: str | None) -> ListResourcesResult:
    """Return one page of the list. The cursor is the name of the last agent of the page before.

    Raises:
        MCPError: the cursor is not one of this server.
    """
    after = "" if cursor is None else decode_cursor(cursor)
    agents = [name for name in await _online_agents(bus_link) if name > after]
    most = PAGE - len(static) if cursor is None else PAGE
    listed = [*(static if cursor is None else ()), *(_inbox_of(name) for name in agents[:most])]
    more = len(agents) > most
    return ListResourcesResult(resources=listed, next_cursor=_encode_cursor(agents[most - 1]) if more else None)


async def _online_agents(bus_link: BusLink) -> list[str]:
    """Return the agents with online workers, without this coordinator; none while the bus does not answer."""
    coordinator = bus_link.up
    workers: list[Presence] = []
    if coordinator is not None:
        with anyio.move_on_after(_TIMEOUT_S):
            workers = await _workers(coordinator)
    return sorted({worker.agent for worker in workers} - {bus_link.agent})


async def _workers(coordinator: Coordinator) -> list[Presence]:
    try:
        return await coordinator.agents()
    except AgentBusError:
        return []


def _inbox_of(agent: str) -> Resource:
    return Resource(
        uri=uris.inbox(agent),
        name=f"inbox of {agent}",
        title=f"Inbox of {agent}",
        description=f"The newest results that the agent {agent} got for tasks that it gave to others, as JSON.",
        mime_type=JSON_TYPE,
    )


def _encode_cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Decode a cursor.

    Raises:
        MCPError: it is not one of this server.
    """
    try:
        name = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        name = ""
    if not subjects.is_agent_id(name):
        raise MCPError(INVALID_PARAMS, "the cursor is not one that this server has given")
    return name
