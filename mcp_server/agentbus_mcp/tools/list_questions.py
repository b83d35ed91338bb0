"""The tool `list_questions`."""

from typing import Annotated, Any, Final

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.replies.build import build_answer
from agentbus_mcp.replies.models import NextCall
from agentbus_mcp.replies.questions import Questions, list_of_questions
from agentbus_mcp.tools.definition import READS, define
from agentbus_mcp.tools.parameters import AgentFilter, ListCursor

_MAX_TASKS: Final = 20
_SEARCH_S: Final = 10.0
"""As `list_tasks`."""


def list_questions_tool(bus_link: BusLink) -> Tool:
    """Make the tool."""

    async def list_questions(
        agent: AgentFilter = None,
        limit: Annotated[int, Field(ge=1, le=_MAX_TASKS, description="Of how many tasks.")] = _MAX_TASKS,
        cursor: ListCursor = None,
    ) -> Annotated[CallToolResult, Questions]:
        """List what agents ask and no one has answered: what runs wait for, and tasks that ended as needs_approval.

        Use it to see what waits for the user. Show the user operation and arguments, then call answer_approval with
        the id.
        """
        coordinator = await bus_link.coordinator()
        found = await coordinator.questions(agent=agent, limit=limit, cursor=cursor, search_s=_SEARCH_S)
        data = list_of_questions(found)
        if found.cursor is not None:
            again = {"agent": agent, "limit": limit if limit != _MAX_TASKS else None, "cursor": found.cursor}
            arguments: dict[str, Any] = {name: value for name, value in again.items() if value is not None}
            data = data.model_copy(update={"next": NextCall(tool="list_questions", arguments=arguments)})
        return build_answer(f"{len(data.questions)} questions wait for the user.", data)

    return define(list_questions, "List open questions", READS)
