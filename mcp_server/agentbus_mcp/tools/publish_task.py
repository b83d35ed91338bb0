"""The tool `publish_task`."""

from typing import Annotated, Literal, TypedDict

from anyio import to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus.coordinator import Coordinator
from agentbus.errors import ArgumentError, BusError
from agentbus.protocol.task_names import TaskName
from agentbus.task_handle import PublishedTask
from agentbus.tasks.follow_ups import NewFollowUp
from agentbus.tasks.work.attachments import Attachments
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.publish import publish_outcome
from agentbus_mcp.operations.shared_folders import files_to_send
from agentbus_mcp.operations.waits import Waits
from agentbus_mcp.operations.watch import DEFAULT_WAIT_S, WatchRequest, watch
from agentbus_mcp.replies.budget import ResponseDetail
from agentbus_mcp.replies.build import build_watch_answer
from agentbus_mcp.replies.models import Publication
from agentbus_mcp.replies.publication import build_answer_with_results, build_publication_answer, publication_of
from agentbus_mcp.task_extension import watched_tasks
from agentbus_mcp.task_extension.offer import current_offer
from agentbus_mcp.tools.definition import ADDS, ALWAYS_LOADED, define
from agentbus_mcp.tools.parameters import (
    Base,
    Branch,
    Content,
    ContinuedTask,
    Files,
    Fresh,
    Inbox,
    NewGroup,
    NewTaskId,
    PayloadFormat,
    Targets,
    TaskType,
    parse_content,
)
from agentbus_mcp.tools.progress import is_wanted, progress


class _Options(TypedDict):
    task_type: str
    payload_format: Literal["text", "json"]
    reply_to: str | None
    task_id: str | None
    group: str | None


def publish_task_tool(bus_link: BusLink, waits: Waits) -> Tool:
    """Make the tool."""

    async def publish_task(  # noqa: PLR0913, PLR0917  # the parameters of the tool
        ctx: Context,
        to: Targets,
        content: Annotated[Content, Field(description="What to do, complete in itself: the agent sees nothing else.")],
        task_type: TaskType,
        files: Files,
        payload_fmt: PayloadFormat = None,
        reply_to: Inbox = None,
        task_id: NewTaskId = None,
        group: NewGroup = None,
        continue_task: ContinuedTask = None,
        fresh: Fresh = False,
        base: Base = None,
        branch: Branch = None,
        watch: Annotated[bool, Field(description="Wait for the results, as watch_results does.")] = False,
    ) -> Annotated[CallToolResult, Publication]:
        """Give the same task to one or several agents on other machines. Each gets a task, and an id, of its own.

        Use it for work that another agent shall do. It returns once the bus has stored the tasks, and says for
        each whether a worker is alive (`online`) and how many tasks wait. Then call watch_results with the ids.
        Publishing the same again under the same task_id is harmless (`known`): do that when an answer was lost.
        """
        is_empty = not content.strip() if isinstance(content, str) else content is None and payload_fmt is None
        if is_empty:
            raise ArgumentError("content: is empty; say what to do")
        sent = await to_thread.run_sync(files_to_send, bus_link.folders, files) if files else ()
        attachments = Attachments(sent, base, branch)
        coordinator = await bus_link.coordinator()
        value = parse_content(content) if payload_fmt == "json" else content
        fmt: Literal["text", "json"] = payload_fmt or ("text" if isinstance(content, str) else "json")
        options = _Options(task_type=task_type, payload_format=fmt, reply_to=reply_to, task_id=task_id, group=group)
        if continue_task is None:
            outcomes = await coordinator.publish_to(to, value, attachments=attachments, **options)
        else:
            if len(to) > 1:
                raise ArgumentError("to: a conversation is that of one agent; name the agent of continue_task alone")
            wanted = NewFollowUp(value, to=to[0], fresh=fresh, attachments=attachments, **options)
            outcomes = [await coordinator.task(continue_task).continue_with(wanted)]
        await bus_link.note_published(one for one in outcomes if isinstance(one, PublishedTask))
        publication = publication_of(await publish_outcome(coordinator, outcomes))
        return await _wait(ctx, coordinator, publication, waits) if watch else build_publication_answer(publication)

    return define(publish_task, "Publish a task", ADDS, ALWAYS_LOADED)


async def _wait(ctx: Context, coordinator: Coordinator, publication: Publication, waits: Waits) -> CallToolResult:
    """Wait for the results of what was published, or have the call continue as an MCP task."""
    if (offer := current_offer()) is not None:
        watched_tasks.begin_publication(coordinator, publication, offer)
        return build_publication_answer(publication)
    names = [str(TaskName(task.task_id, task.agent)) for task in publication.published]
    request = WatchRequest(names, follows=is_wanted(ctx))
    async with progress(ctx, DEFAULT_WAIT_S) as report:
        try:
            found = await watch(coordinator, request, report, waits)
        except BusError:
            return build_publication_answer(publication)  # the client must learn the ids; `next` waits for them
    return build_answer_with_results(publication, build_watch_answer(found, request, ResponseDetail()))
