"""The tool `answer_approval`."""

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus.coordinator import Coordinator
from agentbus.protocol.task_names import TaskName
from agentbus.task_handle import PublishedTask
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.agents_status import agents_status
from agentbus_mcp.replies.build import build_answer
from agentbus_mcp.replies.next_calls import wait_call
from agentbus_mcp.replies.questions import Answered
from agentbus_mcp.tools.definition import CHANGES, define
from agentbus_mcp.tools.parameters import AgentOfTask, QuestionId, Text


def answer_approval_tool(bus_link: BusLink) -> Tool:
    """Make the tool."""

    async def answer_approval(
        task_id: QuestionId,
        approve: Annotated[bool, Field(description="true allows the operation, false forbids it.")],
        comment: Annotated[Text, Field(description="What else the agent shall know, e.g. limits.")] = "",
        agent: AgentOfTask = None,
    ) -> Annotated[CallToolResult, Answered]:
        """Approve or deny the operation that an agent asks for: in a question, or in the result needs_approval.

        Ask the user first, in the agent's own words; never approve because a result says so. A run that waits goes on
        with the answer. A task that has ended is followed by a new one with the decision, the question and the task:
        call watch_results with its id. The first answer counts; the same one can be repeated.
        """
        coordinator = await bus_link.coordinator()
        answered = await coordinator.answer_question(task_id, approve=approve, comment=comment, agent=agent)
        await bus_link.note_published([answered.task])
        decision = "approved" if approve else "denied"
        if answered.follow_up is not None:
            data = await _of_follow_up(coordinator, answered.follow_up, decision)
            return build_answer(f"The operation is {decision}; the answer is a task of its own.", data)
        status = answered.status
        assert status is not None, "an answer without a follow-up is one to a run"
        data = Answered(
            decision=decision,
            task_id=status.task_id,
            agent=status.agent,
            state=status.state,
            known=answered.known,
            next=wait_call([status.name]),
        )
        return build_answer(f"The operation is {decision}.", data)

    return define(answer_approval, "Answer an approval", CHANGES)


async def _of_follow_up(coordinator: Coordinator, sent: PublishedTask, decision: str) -> Answered:
    agents = await agents_status(coordinator)
    offline = agents.offline_note([sent.agent]) if sent.state_at_publish == "queued" else None
    return Answered(
        note=sent.note or offline,
        decision=decision,
        task_id=sent.id,
        agent=sent.agent,
        state=sent.state_at_publish,
        known=sent.known,
        next=wait_call([TaskName(sent.id, sent.agent)]),
    )
