"""The tools: publish tasks, wait for their results, read results."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, MessageError
from agentbus.messages import MAX_TASK_TYPE_CHARS, Json, Task, decode
from agentbus.results import InboxMessage
from agentbus_mcp import reading, views
from agentbus_mcp.errors import reason
from agentbus_mcp.link import Link
from agentbus_mcp.progress import progress
from agentbus_mcp.reading import Found
from agentbus_mcp.schemas import drop_titles
from agentbus_mcp.views import AgentResult, FailedTask, NextCall, Publication, PublishedTask, Results

MAX_TASKS: Final = 32
MAX_NEWEST: Final = 50
MAX_WAIT_S: Final = 240
"""Hosts give up on a call after four to five minutes."""

_META: Final = {"anthropic/alwaysLoad": True}
_READING: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True
)
_WRITING: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)


def _listed(value: Any) -> Any:
    """One id instead of a list of one: models write that now and then."""
    return [value] if isinstance(value, str) else value


# Each kind spelled out, and an array with its items: some hosts refuse a schema that leaves either open.
_ANY_JSON: Final[dict[str, Json]] = {
    "anyOf": [
        {"type": "string"},
        {"type": "object"},
        {"type": "array", "items": {}},
        {"type": "number"},
        {"type": "boolean"},
    ]
}
if TYPE_CHECKING:
    Content = Json
else:
    # Declared as a string because the SDK parses as JSON what comes as a string for any other type, and a text that
    # happens to be JSON must arrive as it was written. The validator takes any value.
    Content = Annotated[str, PlainValidator(lambda value: value), WithJsonSchema(_ANY_JSON)]

AgentId = Annotated[str, Field(max_length=70)]
TaskId = Annotated[str, Field(max_length=128)]
TaskIds = Annotated[list[TaskId], BeforeValidator(_listed), Field(max_length=MAX_TASKS, default_factory=list)]


class Tools:
    """The tools on one link to the bus. Failures are exceptions here; `agentbus_mcp.errors` words them."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def publish_task(
        self,
        to: Annotated[
            list[AgentId],
            BeforeValidator(_listed),
            Field(min_length=1, max_length=MAX_TASKS, description="Ids of the agents, e.g. ['code', 'doc']."),
        ],
        content: Annotated[
            Content,
            Field(
                description="What the agent shall do, complete in itself: it sees nothing else of this conversation."
            ),
        ],
        task_type: Annotated[
            str,
            Field(
                min_length=1, max_length=MAX_TASK_TYPE_CHARS, description="A short name of the kind, e.g. 'review_pr'."
            ),
        ],
        payload_fmt: Annotated[
            Literal["text", "json"], Field(description="text: content is a string. json: content is any JSON value.")
        ] = "text",
        reply_to: Annotated[
            AgentId | None, Field(description="Whose inbox gets the results; default: this coordinator's own.")
        ] = None,
        task_id: Annotated[
            TaskId | None,
            Field(
                description="An id of your own (letters, digits, '_', '-', single dots) makes the call repeatable; "
                "for several agents it becomes <task_id>-<agent>. Default: a new one."
            ),
        ] = None,
    ) -> Annotated[CallToolResult, Publication]:
        """Give a task to one or several agents on other machines. Each gets a task, and an id, of its own.

        Use it for work that another agent shall do: it returns at once, when the bus has stored the tasks. Then call
        watch_results with the ids, or go on with other work and call it later. Publishing the same task again under
        the same task_id is harmless (`known`) and finds out what became of a call whose answer was lost.
        """
        coordinator = await self._link.coordinator()
        tasks = coordinator.build(
            to,
            _parsed(content) if payload_fmt == "json" else content,
            task_type=task_type,
            payload_format=payload_fmt,
            reply_to=reply_to,
            task_id=task_id,
        )
        published, failed = await _publish_all(coordinator, tasks)
        data = Publication(
            published=published,
            failed=failed or None,
            next=_watch(task.task_id for task in published),
        )
        return views.answer(f"Published {len(published)} of {len(tasks)} tasks; {len(failed)} failed.", data)

    async def watch_results(
        self,
        ctx: Context,
        task_ids: Annotated[
            TaskIds, Field(description="The tasks to wait for. Without any: the next messages in the inbox.")
        ],
        until: Annotated[
            Literal["any", "all"],
            Field(description="With task_ids: return when all of them have a result, or as soon as any has."),
        ] = "all",
        timeout_seconds: Annotated[
            float, Field(ge=0, le=MAX_WAIT_S, description="How long to wait at the most; 0 only looks.")
        ] = 25,
        cursor: Annotated[
            int | None,
            Field(
                ge=0,
                description="Without task_ids: wait for messages after this cursor (from get_results or an earlier "
                "call), with no gap; default: from now on.",
            ),
        ] = None,
    ) -> Annotated[CallToolResult, Results]:
        """Wait for the results of tasks, or for new messages in the inbox, and return as soon as they are there.

        Use it after publish_task, instead of calling get_results again and again. Reaching the time-out is no error:
        the answer has what is there, what is pending (a task that stays queued has no worker), and in `next` the call
        that goes on. Cancelling a watch, or never calling it again, does nothing to the tasks.
        """
        coordinator = await self._link.coordinator()
        async with progress(ctx, timeout_seconds) as tell:
            if not task_ids:
                messages, cursor = await reading.next_messages(coordinator, cursor, timeout_seconds)
                return await _inbox_answer(coordinator, messages, cursor)
            found = await reading.look_up(coordinator, task_ids)
            ids = [task.task_id for task in found.known]
            waited = await coordinator.wait(ids, until=until, timeout_s=timeout_seconds, on_change=_each_once(tell))
        tasks = {**waited.pending, **waited.settled}
        return _tasks_answer(Found([tasks[task_id] for task_id in ids], found.unknown))

    async def get_results(
        self,
        task_ids: Annotated[TaskIds, Field(description="The tasks whose results to read.")],
        newest: Annotated[
            int, Field(ge=1, le=MAX_NEWEST, description="Without task_ids: how many of the inbox's newest messages.")
        ] = 5,
        agent: Annotated[
            AgentId | None,
            Field(
                description="Without task_ids: whose inbox; default: this coordinator's own. With task_ids: the agent "
                "that has the tasks, needed only where several have the same id."
            ),
        ] = None,
        max_bytes: Annotated[
            int,
            Field(
                ge=100,
                le=views.ANSWER_BYTES,
                description="How much of each output; with many results each gets an equal part of 64 KiB.",
            ),
        ] = views.MAX_BYTES,
    ) -> Annotated[CallToolResult, Results]:
        """Read results without waiting: those of given tasks, or the newest in the inbox (oldest first).

        Reading removes nothing. An output that is cut says so (`truncated`, `output_bytes`): ask again for that one
        task with a larger max_bytes. To wait for results, use watch_results instead of calling this in a loop.
        """
        coordinator = await self._link.coordinator()
        if task_ids:
            return _tasks_answer(await reading.look_up(coordinator, task_ids, agent), max_bytes)
        messages, cursor = await reading.newest(coordinator, newest, agent)
        return await _inbox_answer(coordinator, messages, cursor, max_bytes, agent)


def make_tools(link: Link) -> list[Tool]:
    """The tools on `link`, always in this order."""
    tools = Tools(link)
    return [
        _tool(tools.publish_task, "Publish a task", _WRITING),
        _tool(tools.watch_results, "Watch for results", _READING),
        _tool(tools.get_results, "Get results", _READING),
    ]


def _tool(function: Callable[..., Any], title: str, annotations: ToolAnnotations) -> Tool:
    description = inspect.getdoc(function)
    tool = Tool.from_function(function, title=title, description=description, annotations=annotations, meta=_META)
    drop_titles(tool.parameters)
    return tool


async def _publish_all(coordinator: Coordinator, tasks: Sequence[Task]) -> tuple[list[PublishedTask], list[FailedTask]]:
    """Publish tasks side by side: a bus that does not answer costs one time-out, not one for each.

    Raises:
        ExceptionGroup: none was published; it holds why.
    """
    published: dict[str, PublishedTask] = {}
    errors: dict[str, AgentBusError] = {}

    async def send(task: Task) -> None:
        try:
            sent = await coordinator.send(task)
        except AgentBusError as error:
            errors[task.id] = error
        else:
            published[task.id] = PublishedTask(agent=task.agent, task_id=task.id, state=sent.state, known=sent.known)

    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(send, task)
    if not published:
        raise ExceptionGroup("no task was published", list(errors.values()))
    failed = [
        FailedTask(agent=task.agent, task_id=task.id, error=reason(errors[task.id]) or "")
        for task in tasks
        if task.id in errors
    ]
    return [published[task.id] for task in tasks if task.id in published], failed


def _tasks_answer(found: Found, max_bytes: int = views.MAX_BYTES) -> CallToolResult:
    """Tasks by id: the results of those that are settled, the state of the others."""
    settled = [task for task in found.known if task.settled]
    pending = [task for task in found.known if not task.settled]
    bound = views.share(max_bytes, len(settled))
    results = [views.of_status(task, bound) for task in settled]
    data = Results(
        results=results,
        pending=[views.of_pending(task) for task in pending] or None,
        unknown=found.unknown or None,
        next=_watch(task.task_id for task in pending) if pending else _more(results, bound),
    )
    summary = f"{len(settled)} with a result, {len(pending)} pending, {len(found.unknown)} unknown."
    return views.answer(summary, data)


async def _inbox_answer(
    coordinator: Coordinator,
    messages: Sequence[InboxMessage],
    cursor: int,
    max_bytes: int = views.MAX_BYTES,
    agent: str | None = None,
) -> CallToolResult:
    """Messages of an inbox; of one's own with the call that waits for more."""
    results = await reading.verified(coordinator.bus, messages, max_bytes)
    more = NextCall(tool="watch_results", arguments={"cursor": cursor}) if agent is None else None
    return views.answer(f"{len(results)} messages.", Results(results=results, cursor=cursor, next=more))


def _watch(task_ids: Iterable[str]) -> NextCall:
    return NextCall(tool="watch_results", arguments={"task_ids": list(task_ids)})


def _more(results: Iterable[AgentResult], bound: int) -> NextCall | None:
    """How to read more of the first output that was cut, if a call can hold more."""
    cut = next((result.task_id for result in results if result.truncated), None)
    if cut is None or bound >= views.ANSWER_BYTES:
        return None
    return NextCall(tool="get_results", arguments={"task_ids": [cut], "max_bytes": views.ANSWER_BYTES})


def _parsed(content: Json) -> Json:
    """The value that is meant where a host passes an object or a list as a string of JSON."""
    try:
        value = decode(content.encode()) if isinstance(content, str) else content
    except MessageError:
        return content
    return value if isinstance(value, dict | list) else content  # pyright: ignore[reportUnknownVariableType]


def _each_once(tell: Callable[[str], None]) -> Callable[[str, str], None]:
    """Pass on the changes of a task's state, and not the renewals of its lease."""
    told: dict[str, str] = {}

    def on_change(task_id: str, state: str) -> None:
        if told.get(task_id) != state:
            told[task_id] = state
            tell(f"{task_id}: {state}")

    return on_change
