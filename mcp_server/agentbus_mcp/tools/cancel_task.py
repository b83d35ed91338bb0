"""The tool `cancel_task`."""

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.cancel import cancel_all
from agentbus_mcp.replies.build import build_answer
from agentbus_mcp.replies.models import Cancellation
from agentbus_mcp.replies.next_calls import wait_call
from agentbus_mcp.replies.tasks import cancelled_task, unknown_tasks
from agentbus_mcp.tools.definition import CHANGES, define
from agentbus_mcp.tools.parameters import AgentOfTask, SomeTaskIds, Text


def cancel_task_tool(bus_link: BusLink) -> Tool:
    """Make the tool. It takes several ids, for an answer that makes the work of the other agents useless."""

    async def cancel_task(
        task_ids: SomeTaskIds,
        reason: Annotated[Text, Field(description="Why; stands in the result.")] = "",
        agent: AgentOfTask = None,
    ) -> Annotated[CallToolResult, Cancellation]:
        """Cancel tasks. One that is queued never starts; of one that works, all processes are ended.

        Use it when a result is not wanted any more, for instance of the slower of several agents. A task that has its
        result keeps it. `next` waits for the end of those that work.
        """
        coordinator = await bus_link.coordinator()
        found = await cancel_all(coordinator, task_ids, agent=agent, reason=reason)
        ending = [status.name for status in found.tasks if not status.settled]
        data = Cancellation(
            tasks=[cancelled_task(status) for status in found.tasks],
            unknown=unknown_tasks(found.errors),
            next=wait_call(ending) if ending else None,
        )
        return build_answer(f"{len(found.tasks)} tasks asked to end, {len(found.errors)} unknown.", data)

    return define(cancel_task, "Cancel tasks", CHANGES)
