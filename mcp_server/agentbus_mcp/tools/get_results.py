"""The tool `get_results`."""

from typing import Annotated, Final

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus.coordinator import Coordinator
from agentbus.errors import ArgumentError
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.inbox import newest_messages
from agentbus_mcp.operations.look_up import look_up
from agentbus_mcp.operations.output import read_part
from agentbus_mcp.operations.watch import WatchRequest, outcome_of
from agentbus_mcp.replies.budget import PART_BYTES, ResponseDetail
from agentbus_mcp.replies.build import build_inbox_answer, build_tasks_answer
from agentbus_mcp.replies.models import Results
from agentbus_mcp.replies.next_calls import watch_inbox_call
from agentbus_mcp.tools.definition import ALWAYS_LOADED, READS, define
from agentbus_mcp.tools.parameters import AgentOrInbox, MaxBytes, Offset, ResponseFormat, TaskIds

MAX_NEWEST: Final = 50


def get_results_tool(bus_link: BusLink) -> Tool:
    """Make the tool."""

    async def get_results(
        task_ids: TaskIds,
        newest: Annotated[int, Field(ge=1, le=MAX_NEWEST, description="Inbox: how many of the newest messages.")] = 5,
        agent: AgentOrInbox = None,
        response_format: ResponseFormat = "concise",
        offset: Offset = 0,
        max_bytes: MaxBytes = None,
    ) -> Annotated[CallToolResult, Results]:
        """Read results without waiting: those of given tasks, or the newest in an inbox (oldest first).

        Use it to read a result again, or more of it: one that was cut says `truncated`, `output_bytes`, `next_offset`,
        and `next` is the call for the following part. Reading removes nothing. To wait, call watch_results.
        """
        if offset and len(task_ids) != 1:
            raise ArgumentError("offset: reads on in the output of one task; name exactly one in task_ids")
        detail = ResponseDetail(response_format, max_bytes or (PART_BYTES if offset else None))
        coordinator = await bus_link.coordinator()
        if task_ids:
            return await _results_of_tasks(coordinator, task_ids, agent, detail, offset)
        page = await newest_messages(coordinator, newest, agent)
        following = watch_inbox_call(WatchRequest(agent=agent), ResponseDetail(), page.cursor)
        return build_inbox_answer(page, following, detail)

    return define(get_results, "Get results", READS, ALWAYS_LOADED)


async def _results_of_tasks(
    coordinator: Coordinator, task_ids: list[str], agent: str | None, detail: ResponseDetail, offset: int
) -> CallToolResult:
    found = await look_up(coordinator, task_ids, agent)
    part = None
    if detail.max_bytes and len(found.tasks) == 1 and found.tasks[0].settled:
        part = await read_part(coordinator, found.tasks[0], offset, detail.max_bytes)
    return build_tasks_answer(await outcome_of(coordinator, found, part=part), WatchRequest(agent=agent), detail)
