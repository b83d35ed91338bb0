"""The tools as a client is told of them: their order, titles, hints and schemas."""

import inspect
from collections.abc import Callable
from typing import Any, Final

from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations

from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.replies.schemas import compact, outline
from agentbus_mcp.task_extension.support import TaskSupport
from agentbus_mcp.task_extension.watched_tasks import WatchedTasks
from agentbus_mcp.tools.delegation import Delegation
from agentbus_mcp.tools.oversight import Oversight

_AT_ONCE: Final = {"anthropic/alwaysLoad": True}
"""For hosts that show a model no more than the names of most tools until it searches for them."""
_READS: Final = ToolAnnotations(read_only_hint=True)
_ADDS: Final = ToolAnnotations(read_only_hint=False, destructive_hint=False)
_CHANGES: Final = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True)
"""What these leave out is as the protocol takes it to be: they reach beyond the client's machine."""


def make_tools(bus_link: BusLink) -> list[Tool]:
    """The tools on `bus_link`, always in this order."""
    job, beside = Delegation(bus_link), Oversight(bus_link)
    return [
        _tool(job.publish_task, "Publish a task", _ADDS, _AT_ONCE),
        _tool(job.watch_results, "Watch for results", _READS, _AT_ONCE),
        _tool(job.get_results, "Get results", _READS, _AT_ONCE),
        _tool(beside.get_task, "Look at a task", _READS),
        _tool(beside.list_tasks, "List tasks", _READS),
        _tool(beside.list_agents, "List agents", _READS),
        _tool(beside.cancel_task, "Cancel tasks", _CHANGES),
        _tool(beside.answer_approval, "Answer an approval", _CHANGES),
    ]


def task_support() -> dict[str, TaskSupport]:
    """The tools whose calls can go on as MCP tasks, by their names."""
    waiting = WatchedTasks()
    return {"publish_task": waiting, "watch_results": waiting}


def _tool(
    function: Callable[..., Any], title: str, annotations: ToolAnnotations, meta: dict[str, Any] | None = None
) -> Tool:
    description = inspect.getdoc(function)
    tool = Tool.from_function(function, title=title, description=description, annotations=annotations, meta=meta)
    tool.parameters = compact(tool.parameters)
    tool.fn_metadata.output_schema = outline(tool.fn_metadata.output_schema or {})
    return tool
