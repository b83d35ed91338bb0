"""The Tasks extension `io.modelcontextprotocol/tasks` (SEP-2663): calls of tools that go on without their caller.

A call of a tool that has `TaskSupport` can be answered with an MCP task, which the client asks about with `tasks/get`,
feeds with `tasks/update` and ends with `tasks/cancel`, or follows on `subscriptions/listen`. Nothing of it runs in this
process: how a task stands is worked out from its record on the bus, and from what the record points to, whenever
somebody asks. So it goes on while no server is there, and the next server answers for it.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ConfigDict

from agentbus.bus.pull_consumer import Delivery
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, ApiError, BusUnavailableError, SetupMissingError
from agentbus.protocol import subjects
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.errors import reason
from agentbus_mcp.metrics import NO_METRICS, Metrics
from agentbus_mcp.notifications import sources
from agentbus_mcp.notifications.bus_events import BusEvents, Unsubscribe
from agentbus_mcp.notifications.task_notifications import TASKS_EXTENSION
from agentbus_mcp.replies.sanitize import clip
from agentbus_mcp.task_extension import records
from agentbus_mcp.task_extension.records import End, Kept
from agentbus_mcp.task_extension.support import (
    Completed,
    Failed,
    InputRequired,
    Offer,
    Standing,
    TaskSupport,
    Working,
    offering,
)

log = logging.getLogger("agentbus.mcp")

_MODERN: Final = frozenset(MODERN_PROTOCOL_VERSIONS)
_REMEMBERED: Final = 128
"""How many tasks' last known states are at hand while the bus is away."""
_AWAY: Final = "the bus is away at present; this is what was known last"
_MESSAGE_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class _Known:
    """What was known of a task last."""

    kept: Kept
    task: dict[str, Any]


class TaskIdParams(RequestParams):
    """Parameters of `tasks/get` and `tasks/cancel`."""

    model_config = ConfigDict(defer_build=True)

    task_id: str


class UpdateParams(TaskIdParams):
    """Parameters of `tasks/update`."""

    input_responses: dict[str, Any]


class McpTasks(Extension):
    """Serves the extension for the tools that support it, by their names."""

    identifier = TASKS_EXTENSION

    def __init__(self, bus_link: BusLink, bus_events: BusEvents, tools: Mapping[str, TaskSupport]) -> None:
        self._bus_link = bus_link
        self._bus_events = bus_events
        self._tools = dict(tools)
        self._last_known: OrderedDict[str, _Known] = OrderedDict()
        self.metrics: Metrics = NO_METRICS

    def methods(self) -> Sequence[MethodBinding]:
        """The three methods, for clients of the era that has them."""
        return [
            MethodBinding("tasks/get", TaskIdParams, self._serve_get, _MODERN),
            MethodBinding("tasks/update", UpdateParams, self._serve_update, _MODERN),
            MethodBinding("tasks/cancel", TaskIdParams, self._serve_cancel, _MODERN),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Offer the tool to answer with a task, if it supports that and the client has declared that it knows tasks."""
        tool = self._tools.get(params.name)
        if tool is None:
            return await call_next(ctx)
        if not self._declared(ctx):
            if tool.required:
                require_client_extension(ctx, self.identifier)
            return await call_next(ctx)
        offer = Offer(params.arguments or {}, _elicits(ctx))
        with offering(offer):
            answer = await call_next(ctx)
        if offer.state is None or not isinstance(answer, CallToolResult) or answer.is_error:
            return answer
        try:
            coordinator = await self._bus_link.coordinator()
            kept = await records.create(coordinator, params.name, offer.state, ttl_ms=tool.ttl_ms)
        except AgentBusError as error:
            log.warning("a call is answered without an MCP task: %s", reason(error))
            return answer
        return {"resultType": "task", **self._described(kept, tool, Working(offer.message))}

    async def get(self, task_id: str) -> dict[str, Any]:
        """The `DetailedTask`.

        While the bus is away, what was known last is answered, if this process knows the task.

        Raises:
            MCPError: there is no such task, or nothing is known of it at present.
        """
        try:
            with _worded():
                coordinator = await self._bus_link.coordinator()
                kept, tool = await self._find(coordinator, task_id)
                kept, standing = await self._look(coordinator, kept, tool)
        except MCPError as error:
            known = self._last_known.get(task_id)
            if known is None or not _is_passing(error.__cause__):
                raise
            return known.task if known.kept.record.end else {**known.task, "statusMessage": _AWAY}
        return self._described(kept, tool, standing)

    async def watch(self, task_id: str, changed: Callable[[], None]) -> Unsubscribe | None:
        """Call `changed` when a task may have changed; None where there is no such task.

        Raises:
            MCPError: the bus cannot be asked.
        """
        try:
            with _worded():
                kept, tool = await self._find(await self._bus_link.coordinator(), task_id)
        except MCPError as error:
            if error.code == INVALID_PARAMS:
                return None
            known = self._last_known.get(task_id)
            if known is None or not _is_passing(error.__cause__):
                raise
            kept, tool = known.kept, self._tools[known.kept.record.tool]
        subject = subjects.mcp_task(self._bus_link.agent, task_id)

        def on_change(message: Delivery | None) -> None:
            if message is None or message.subject == subject:
                changed()

        own = self._bus_events.follow(sources.LEDGER, on_change)
        others = tool.watch(self._bus_events, kept.record.state, changed)

        def leave() -> None:
            own()
            others()

        return leave

    async def _serve_get(self, ctx: ServerRequestContext[Any, Any], params: TaskIdParams) -> dict[str, Any]:
        self._check(ctx, params.task_id)
        task = await self.get(params.task_id)
        self.metrics.answered(task.get("result", {}).get("structuredContent"))
        return task

    async def _serve_update(self, ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> dict[str, Any]:
        """Take the answers to requests that are open; all others have been answered, or never asked for."""
        self._check(ctx, params.task_id)
        with _worded():
            coordinator = await self._bus_link.coordinator()
            while not await self._update(coordinator, params):
                pass  # somebody else has changed the record meanwhile
        return {}

    async def _update(self, coordinator: Coordinator, params: UpdateParams) -> bool:
        kept, tool = await self._find(coordinator, params.task_id)
        kept, standing = await self._look(coordinator, kept, tool)
        asked = set(standing.requests if isinstance(standing, InputRequired) else ())
        responses = {key: response for key, response in params.input_responses.items() if key in asked}
        if not responses:
            return True
        state = await tool.answer(coordinator, kept.record.state, responses)
        return state is None or await records.change(coordinator, kept, state=state) is not None

    async def _serve_cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskIdParams) -> dict[str, Any]:
        """End a task, unless it has ended."""
        self._check(ctx, params.task_id)
        with _worded():
            coordinator = await self._bus_link.coordinator()
            kept, tool = await self._find(coordinator, params.task_id)
            kept, _ = await self._look(coordinator, kept, tool)
            if kept.record.end is None:
                await tool.cancel(coordinator, kept.record.state)
                await self._end(coordinator, kept, End(status="cancelled"))
        return {}

    def _check(self, ctx: ServerRequestContext[Any, Any], task_id: str) -> None:
        """Refuse a client that has not declared the extension, or whose HTTP header names another task.

        The SDK compares the header for the methods of the core protocol only.
        """
        require_client_extension(ctx, self.identifier)
        headers = ctx.request.headers if ctx.request is not None else None
        if headers is not None and decode_header_value(headers.get(MCP_NAME_HEADER)) != task_id:
            raise MCPError(HEADER_MISMATCH, f"the {MCP_NAME_HEADER} header is not the taskId of the request")

    def _declared(self, ctx: ServerRequestContext[Any, Any]) -> bool:
        capabilities = ctx.session.client_capabilities
        declared = capabilities.extensions if capabilities else None
        return ctx.protocol_version in _MODERN and self.identifier in (declared or {})

    async def _find(self, coordinator: Coordinator, task_id: str) -> tuple[Kept, TaskSupport]:
        """The record of a task, and its tool.

        Raises:
            MCPError: there is none, or none any more.
        """
        kept = await records.read(coordinator, task_id)
        known = self._last_known.get(task_id)
        if known is not None and (kept is None or kept.revision < known.kept.revision):
            kept = known.kept  # another replica of the server lags behind
        tool = self._tools.get(kept.record.tool) if kept else None
        if kept is None or tool is None:
            raise MCPError(
                INVALID_PARAMS,
                f"Task not found: {clip(task_id)!a} is not the id of an MCP task of this server. An id of the bus "
                "is asked about with the tools",
            )
        if kept.record.expired:
            raise MCPError(
                INVALID_PARAMS,
                f"Task has expired: {task_id} was kept for {kept.record.ttl_ms / 1000:g} s. The tools still know the "
                "tasks of the bus that it was about",
            )
        return kept, tool

    async def _look(self, coordinator: Coordinator, kept: Kept, tool: TaskSupport) -> tuple[Kept, Standing | None]:
        """How a task stands, None if its record says it; an end is kept there, so that it can never change."""
        if kept.record.end is not None:
            return kept, None
        standing = await tool.look(coordinator, kept.record.state)
        match standing:
            case Completed(result):
                body = result.model_dump(mode="json", by_alias=True, exclude_none=True)
                return await self._end(coordinator, kept, End(status="completed", body=body)), None
            case Failed(error):
                body = error.model_dump(mode="json", by_alias=True, exclude_none=True)
                return await self._end(coordinator, kept, End(status="failed", body=body)), None
            case _:
                return kept, standing

    async def _end(self, coordinator: Coordinator, kept: Kept, end: End) -> Kept:
        """Keep the end of a task, or find the one that somebody else has kept before."""
        while kept.record.end is None:
            changed = await records.change(coordinator, kept, end=end)
            kept = changed or (await self._find(coordinator, kept.task_id))[0]
        return kept

    def _described(self, kept: Kept, tool: TaskSupport, standing: Standing | None) -> dict[str, Any]:
        """A task as the protocol has it; it is remembered."""
        record, changed_at = kept.record, kept.record.changed_at
        described: dict[str, Any] = {"taskId": kept.task_id, "status": "working"}
        if isinstance(standing, Working | InputRequired):
            changed_at = max(changed_at, standing.changed_at or changed_at)
            if standing.message:
                described["statusMessage"] = clip(standing.message, _MESSAGE_CHARS)
        if isinstance(standing, InputRequired):
            described["status"] = "input_required"
            described["inputRequests"] = dict(standing.requests)
        if record.end is not None:
            described["status"] = record.end.status
            if record.end.status == "completed":
                described["result"] = record.end.body
            elif record.end.status == "failed":
                described["error"] = record.end.body
                described["statusMessage"] = clip(str((record.end.body or {}).get("message", "")), _MESSAGE_CHARS)
        task = {
            **described,
            "createdAt": record.created_at.isoformat(),
            "lastUpdatedAt": changed_at.isoformat(),
            "ttlMs": record.ttl_ms,
            "pollIntervalMs": tool.poll_interval_ms,
        }
        self._last_known[kept.task_id] = _Known(kept, task)
        self._last_known.move_to_end(kept.task_id)
        if len(self._last_known) > _REMEMBERED:
            self._last_known.popitem(last=False)
        return task


def _elicits(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether a client can show a form: it says so, or says no more than that it elicits."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _is_passing(error: BaseException | None) -> bool:
    """Whether a failure is that of a bus that is away, or that has only just come back."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_passing(inner) for inner in error.exceptions)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    return isinstance(error, BusUnavailableError | SetupMissingError | ApiError)


@contextmanager
def _worded() -> Generator[None]:
    """Turn a failure that was foreseen into an error of the protocol, in its own words."""
    try:
        yield
    except (AgentBusError, ExceptionGroup) as error:
        text = reason(error)
        if text is None:
            raise
        raise MCPError(INTERNAL_ERROR, text) from error
