"""The tools of the main job: publish tasks, wait for their results, read results."""

from typing import Annotated, Final

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import Field

from agentbus.coordinator import Coordinator
from agentbus.errors import BusError
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.errors import ArgumentError
from agentbus_mcp.operations import publishing, reading, watching
from agentbus_mcp.operations.progress import progress
from agentbus_mcp.operations.reading import Found
from agentbus_mcp.operations.watching import DEFAULT_WAIT_S, Watch
from agentbus_mcp.replies import rendering, views
from agentbus_mcp.replies.models import Publication, Results
from agentbus_mcp.replies.rendering import PART_BYTES, Room
from agentbus_mcp.task_extension import watched_tasks
from agentbus_mcp.task_extension.support import offered
from agentbus_mcp.tools.parameters import (
    AgentOrInbox,
    Content,
    Cursor,
    Inbox,
    MaxBytes,
    NewTaskId,
    Offset,
    PayloadFormat,
    ResponseFormat,
    Targets,
    TaskIds,
    TaskType,
    Timeout,
    WatchUntil,
    parsed,
)

MAX_NEWEST: Final = 50


class Delegation:
    """The tools on one bus_link to the bus. Failures are exceptions here; `agentbus_mcp.errors` words them."""

    def __init__(self, bus_link: BusLink) -> None:
        self._bus_link = bus_link

    async def publish_task(
        self,
        ctx: Context,
        to: Targets,
        content: Annotated[Content, Field(description="What to do, complete in itself: the agent sees nothing else.")],
        task_type: TaskType,
        payload_fmt: PayloadFormat = "text",
        reply_to: Inbox = None,
        task_id: NewTaskId = None,
        watch: Annotated[bool, Field(description="Wait for the results as well, as watch_results does.")] = False,
    ) -> Annotated[CallToolResult, Publication]:
        """Give the same task to one or several agents on other machines. Each gets a task, and an id, of its own.

        Use it for work that another agent shall do. It returns as soon as the bus has stored the tasks, and says for
        each whether a worker is alive (`online`) and how many tasks wait. Then call watch_results with the ids.
        Publishing the same again under the same task_id is harmless (`known`): do that when an answer was lost.
        """
        coordinator = await self._bus_link.coordinator()
        tasks = coordinator.build(
            to,
            parsed(content) if payload_fmt == "json" else content,
            task_type=task_type,
            payload_format=payload_fmt,
            reply_to=reply_to,
            task_id=task_id,
        )
        publication = await publishing.publish(coordinator, tasks)
        answer = publishing.answer(publication)
        if not watch:
            return answer
        if (offer := offered()) is not None:
            watched_tasks.begin_publication(coordinator, publication, offer)
            return answer
        async with progress(ctx, DEFAULT_WAIT_S) as tell:
            try:
                agents = {task.agent for task in publication.published}
                agent = agents.pop() if len(agents) == 1 else None
                wanted = Watch([task.task_id for task in publication.published], agent=agent)
                watched = await watching.watch(coordinator, wanted, tell)
            except BusError:
                return answer  # what is published must be told; `next` waits for it
        return publishing.answer_with_results(publication, watched)

    async def watch_results(
        self,
        ctx: Context,
        task_ids: TaskIds,
        until: WatchUntil = "all",
        timeout_seconds: Timeout = DEFAULT_WAIT_S,
        cursor: Cursor = None,
        agent: AgentOrInbox = None,
        response_format: ResponseFormat = "concise",
    ) -> Annotated[CallToolResult, Results]:
        """Wait for the results of tasks, or for new messages in an inbox, and return as soon as they are there.

        Use it after publish_task; never poll with get_results. The time-out is no error: the answer has what is there,
        what is `pending` in which state, and in `next` the call that goes on. A task that stays queued has no free
        worker. Giving up does nothing to the tasks. Inbox: from now on, or with no gap after `cursor`.
        """
        wanted = Watch(task_ids, until, timeout_seconds, cursor, agent, Room(response_format))
        coordinator = await self._bus_link.coordinator()
        if timeout_seconds and (offer := offered()) is not None:
            return await watched_tasks.begin_watch(coordinator, wanted, offer)
        async with progress(ctx, timeout_seconds) as tell:
            return await watching.watch(coordinator, wanted, tell)

    async def get_results(
        self,
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
        room = Room(response_format, max_bytes or (PART_BYTES if offset else None))
        coordinator = await self._bus_link.coordinator()
        if task_ids:
            return await _of_tasks(coordinator, task_ids, offset, Watch(agent=agent, room=room))
        messages, cursor = await reading.newest(coordinator, newest, agent)
        data = Results(results=[], cursor=cursor, next=Watch(agent=agent).call(cursor=cursor))
        drafts = await reading.drafts(coordinator.bus, messages)
        return rendering.results(f"{len(messages)} messages.", data, drafts, room)


async def _of_tasks(coordinator: Coordinator, task_ids: list[str], offset: int, wanted: Watch) -> CallToolResult:
    found = await reading.look_up(coordinator, task_ids, wanted.agent)
    drafts = None
    if wanted.room.max_bytes and len(found.known) == 1 and found.known[0].settled:
        [status] = found.known
        part = await reading.part(coordinator, status, offset, wanted.room.max_bytes)
        drafts = [views.draft_of_status(status, part)]
    return await watching.results_of(coordinator, Found(found.known, found.unknown), wanted, drafts=drafts)
