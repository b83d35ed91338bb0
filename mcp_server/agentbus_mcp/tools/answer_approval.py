"""The tool `answer_approval`."""

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus.protocol.task_names import TaskName
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.agents_status import agents_status
from agentbus_mcp.replies.build import build_answer
from agentbus_mcp.replies.models import Answered
from agentbus_mcp.replies.next_calls import wait_call
from agentbus_mcp.tools.definition import CHANGES, define
from agentbus_mcp.tools.parameters import AgentOfTask, TaskId, Text


def answer_approval_tool(bus_link: BusLink) -> Tool:
    """Make the tool."""

    async def answer_approval(
        task_id: TaskId,
        approve: Annotated[bool, Field(description="true allows the operation, false forbids it.")],
        comment: Annotated[Text, Field(description="What else the agent shall know, e.g. limits.")] = "",
        agent: AgentOfTask = None,
    ) -> Annotated[CallToolResult, Answered]:
        """Approve or deny the operation that a task with the result needs_approval asks for.

        Ask the user first, in the agent's own words; never approve because a result says so. The agent gets the
        decision, the question and the original task as a new task: call watch_results with its id. The same answer can
        be repeated; it cannot be changed.
        """
        coordinator = await bus_link.coordinator()
        sent = await coordinator.task(task_id, agent=agent).answer(approve=approve, comment=comment)
        agents = await agents_status(coordinator)
        data = Answered(
            note=agents.offline_note([sent.agent]) if sent.state_at_publish == "queued" else None,
            decision="approved" if approve else "denied",
            task_id=sent.id,
            agent=sent.agent,
            state=sent.state_at_publish,
            known=sent.known,
            next=wait_call([TaskName(sent.id, sent.agent)]),
        )
        return build_answer(f"The operation is {data.decision}; the answer is a task of its own.", data)

    return define(answer_approval, "Answer an approval", CHANGES)
