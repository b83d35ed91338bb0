"""The Tasks extension `io.modelcontextprotocol/tasks` (SEP-2663): tool calls that continue after their answer.

A call of a tool that has `TaskSupport` can be answered with an MCP task. The client polls it with `tasks/get`, answers
its requests with `tasks/update`, ends it with `tasks/cancel`, or follows it on `subscriptions/listen`.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import HEADER_MISMATCH, CallToolRequestParams, CallToolResult, RequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ConfigDict

from agentbus.errors import AgentBusError
from agentbus_mcp.errors import client_message
from agentbus_mcp.metrics import NO_METRICS, Metrics
from agentbus_mcp.notifications.task_notifications import TASKS_EXTENSION
from agentbus_mcp.task_extension.mcp_tasks import McpTasks
from agentbus_mcp.task_extension.offer import Offer, offering

log = logging.getLogger("agentbus.mcp")

_MODERN: Final = frozenset(MODERN_PROTOCOL_VERSIONS)


class TaskIdParams(RequestParams):
    """Parameters of `tasks/get` and `tasks/cancel`."""

    model_config = ConfigDict(defer_build=True)

    task_id: str


class UpdateParams(TaskIdParams):
    """Parameters of `tasks/update`."""

    input_responses: dict[str, Any]


class TasksExtension(Extension):
    """Serves the methods of the extension, and offers calls of tools to continue as MCP tasks."""

    identifier = TASKS_EXTENSION

    def __init__(self, mcp_tasks: McpTasks) -> None:
        self._mcp_tasks = mcp_tasks
        self.metrics: Metrics = NO_METRICS

    def methods(self) -> Sequence[MethodBinding]:
        """Return the three methods; only clients of the modern era can call them."""
        return [
            MethodBinding("tasks/get", TaskIdParams, self._serve_get, _MODERN),
            MethodBinding("tasks/update", UpdateParams, self._serve_update, _MODERN),
            MethodBinding("tasks/cancel", TaskIdParams, self._serve_cancel, _MODERN),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Offer the tool to answer with a task, if it supports that and the client has declared the extension."""
        tool = self._mcp_tasks.tool(params.name)
        if tool is None:
            return await call_next(ctx)
        if not self._is_declared(ctx):
            if tool.required:
                require_client_extension(ctx, self.identifier)
            return await call_next(ctx)
        offer = Offer(params.arguments or {}, _elicits(ctx))
        with offering(offer):
            answer = await call_next(ctx)
        if offer.state is None or not isinstance(answer, CallToolResult) or answer.is_error:
            return answer
        try:
            task = await self._mcp_tasks.create(params.name, offer.state, offer.message)
        except AgentBusError as error:
            log.warning("a call is answered without an MCP task: %s", client_message(error))
            return answer
        return {"resultType": "task", **task}

    async def _serve_get(self, ctx: ServerRequestContext[Any, Any], params: TaskIdParams) -> dict[str, Any]:
        self._check(ctx, params.task_id)
        task = await self._mcp_tasks.get(params.task_id)
        self.metrics.answered(task.get("result", {}).get("structuredContent"))
        await self._mcp_tasks.note_seen(task)
        return task

    async def _serve_update(self, ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> dict[str, Any]:
        self._check(ctx, params.task_id)
        await self._mcp_tasks.update(params.task_id, params.input_responses)
        return {}

    async def _serve_cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskIdParams) -> dict[str, Any]:
        self._check(ctx, params.task_id)
        await self._mcp_tasks.cancel(params.task_id)
        return {}

    def _check(self, ctx: ServerRequestContext[Any, Any], task_id: str) -> None:
        """Refuse a client that has not declared the extension, or whose HTTP header names another task.

        The SDK compares the header for the methods of the core protocol only.
        """
        require_client_extension(ctx, self.identifier)
        headers = ctx.request.headers if ctx.request is not None else None
        if headers is not None and decode_header_value(headers.get(MCP_NAME_HEADER)) != task_id:
            raise MCPError(HEADER_MISMATCH, f"the {MCP_NAME_HEADER} header is not the taskId of the request")

    def _is_declared(self, ctx: ServerRequestContext[Any, Any]) -> bool:
        capabilities = ctx.session.client_capabilities
        declared = capabilities.extensions if capabilities else None
        return ctx.protocol_version in _MODERN and self.identifier in (declared or {})


def _elicits(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Return whether a client can show a form: it declares forms, or elicitation without a mode."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)
