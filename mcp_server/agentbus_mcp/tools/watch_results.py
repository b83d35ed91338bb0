"""The tool `watch_results`."""

from dataclasses import replace
from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult

from agentbus.errors import ArgumentError
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.group_watch import watch_of_group
from agentbus_mcp.operations.waits import Waits
from agentbus_mcp.operations.watch import DEFAULT_WAIT_S, WatchRequest, watch
from agentbus_mcp.replies.budget import ResponseDetail
from agentbus_mcp.replies.build import build_watch_answer
from agentbus_mcp.replies.models import Results
from agentbus_mcp.task_extension import watched_tasks
from agentbus_mcp.task_extension.offer import current_offer
from agentbus_mcp.tools.definition import ALWAYS_LOADED, READS, define
from agentbus_mcp.tools.parameters import AgentOrInbox, Cursor, Group, ResponseFormat, TaskIds, Timeout, WatchUntil
from agentbus_mcp.tools.progress import is_wanted, progress


def watch_results_tool(bus_link: BusLink, waits: Waits) -> Tool:
    """Make the tool."""

    async def watch_results(
        ctx: Context,
        task_ids: TaskIds,
        until: WatchUntil = "all",
        timeout_seconds: Timeout = DEFAULT_WAIT_S,
        cursor: Cursor = None,
        agent: AgentOrInbox = None,
        group: Group = None,
        response_format: ResponseFormat = "concise",
    ) -> Annotated[CallToolResult, Results]:
        """Wait for the results of tasks, or for new messages in an inbox, and return once they are there.

        Use it after publish_task; never poll with get_results. The time-out is no error: the answer has what is there,
        what is `pending` in which state, and in `next` the call that goes on. It returns early when a run asks a
        person: see `questions`. A task that stays queued has no free worker. Giving up does nothing to the tasks.
        Inbox: from now on, or with no gap after `cursor`.
        """
        if group and task_ids:
            raise ArgumentError("group: is all of its tasks; leave out task_ids")
        request = WatchRequest(task_ids, until, timeout_seconds, cursor, agent)
        detail = ResponseDetail(response_format)
        coordinator = await bus_link.coordinator()
        if group:
            request = await watch_of_group(coordinator, request, group)
        if timeout_seconds and (offer := current_offer()) is not None:
            return await watched_tasks.begin_watch(coordinator, request, detail, offer)
        request = replace(request, follows=is_wanted(ctx))
        async with progress(ctx, timeout_seconds) as report:
            return build_watch_answer(await watch(coordinator, request, report, waits), request, detail)

    return define(watch_results, "Watch for results", READS, ALWAYS_LOADED)
