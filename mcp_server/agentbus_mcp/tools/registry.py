"""Lists the tools, in the order in which clients get them."""

from mcp.server.mcpserver.tools import Tool

from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.waits import Waits
from agentbus_mcp.task_extension.task_support import TaskSupport
from agentbus_mcp.task_extension.watched_tasks import WatchedTasks
from agentbus_mcp.tools.answer_approval import answer_approval_tool
from agentbus_mcp.tools.cancel_task import cancel_task_tool
from agentbus_mcp.tools.get_results import get_results_tool
from agentbus_mcp.tools.get_task import get_task_tool
from agentbus_mcp.tools.list_agents import list_agents_tool
from agentbus_mcp.tools.list_questions import list_questions_tool
from agentbus_mcp.tools.list_tasks import list_tasks_tool
from agentbus_mcp.tools.publish_task import publish_task_tool
from agentbus_mcp.tools.watch_results import watch_results_tool


def make_tools(bus_link: BusLink, waits: Waits) -> list[Tool]:
    """Make the tools on a connection. Their failures are exceptions; `agentbus_mcp.errors` words them."""
    return [
        publish_task_tool(bus_link, waits),
        watch_results_tool(bus_link, waits),
        get_results_tool(bus_link),
        get_task_tool(bus_link),
        list_tasks_tool(bus_link),
        list_agents_tool(bus_link),
        cancel_task_tool(bus_link),
        answer_approval_tool(bus_link),
        list_questions_tool(bus_link),
    ]


def task_support() -> dict[str, TaskSupport]:
    """The tools whose calls can continue as MCP tasks, by their names."""
    watched_tasks = WatchedTasks()
    return {"publish_task": watched_tasks, "watch_results": watched_tasks}
