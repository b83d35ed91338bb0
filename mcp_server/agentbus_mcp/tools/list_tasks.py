"""The tool `list_tasks`."""

from typing import Annotated, Any, Final

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus.protocol.ledger_entry import State
from agentbus.tasks.listing.task_list import TaskList
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.replies.build import build_answer
from agentbus_mcp.replies.models import Listing, NextCall
from agentbus_mcp.replies.tasks import listed_task
from agentbus_mcp.sanitize import visible
from agentbus_mcp.tools.definition import READS, define
from agentbus_mcp.tools.parameters import AgentFilter, Group, ListCursor

MAX_LISTED: Final = 50
_DEFAULT_LIMIT: Final = 20
_MAX_UNREADABLE: Final = 10
_SEARCH_S: Final = 10.0
"""How long one call searches: some 400,000 entries, so that a model needs a handful of calls for a million. Hosts give
a tool a minute."""


def list_tasks_tool(bus_link: BusLink) -> Tool:
    """Make the tool."""

    async def list_tasks(
        agent: AgentFilter = None,
        asked_by: Annotated[str | None, Field(max_length=70, description="Only of this coordinator.")] = None,
        state: Annotated[State | None, Field(description="Only tasks in this state.")] = None,
        group: Group = None,
        limit: Annotated[int, Field(ge=1, le=MAX_LISTED, description="How many.")] = _DEFAULT_LIMIT,
        cursor: ListCursor = None,
    ) -> Annotated[CallToolResult, Listing]:
        """List tasks by their last change, the newest first.

        Use it when you do not have the ids: after a restart, or to see what runs, waits for approval or has failed.
        Then get_results with the ids. A search among very many tasks ends after ten seconds with `partial`: the call in
        `next` goes on.
        """
        coordinator = await bus_link.coordinator()
        found = await coordinator.list_tasks(
            agent=agent,
            owner=asked_by,
            state=state,
            group=group,
            limit=limit,
            cursor=cursor,
            with_results=False,
            search_s=_SEARCH_S,
        )
        again = {
            "agent": agent,
            "asked_by": asked_by,
            "state": state,
            "group": group,
            "limit": limit if limit != _DEFAULT_LIMIT else None,
            "cursor": found.cursor,
        }
        arguments: dict[str, Any] = {key: value for key, value in again.items() if value is not None}
        data = Listing(
            tasks=[listed_task(status) for status in found.tasks],
            note=_how_far(found) if found.partial else None,
            partial=found.partial or None,
            cursor=found.cursor,
            unreadable=[visible(fault) for fault in found.unreadable[:_MAX_UNREADABLE]] or None,
            next=NextCall(tool="list_tasks", arguments=arguments) if found.cursor is not None else None,
        )
        return build_answer(f"{len(data.tasks)} tasks.", data)

    return define(list_tasks, "List tasks", READS)


def _how_far(found: TaskList) -> str:
    """Say how far a search that stopped early has come."""
    until = "" if found.reached is None else f" back to {found.reached.isoformat(timespec='seconds')}"
    return f"searched{until}; {found.left} older entries are left: call next to go on"
