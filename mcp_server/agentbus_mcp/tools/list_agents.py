"""The tool `list_agents`."""

from typing import Annotated, Final

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus.admin.overview import OverviewReader
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.lost import lost_note
from agentbus_mcp.replies.agents import agent_view
from agentbus_mcp.replies.budget import DetailLevel
from agentbus_mcp.replies.build import build_answer
from agentbus_mcp.replies.models import Agents
from agentbus_mcp.tools.definition import READS, define
from agentbus_mcp.tools.parameters import AgentFilter

_MAX_AGENTS: Final = {"concise": 100, "detailed": 25}


def list_agents_tool(bus_link: BusLink) -> Tool:
    """Make the tool."""

    async def list_agents(
        agent: AgentFilter = None,
        response_format: Annotated[
            DetailLevel, Field(description="detailed: each worker with its machine, command and running tasks.")
        ] = "concise",
    ) -> Annotated[CallToolResult, Agents]:
        """List the agents that can be given tasks: whether a worker is alive, its free slots, and the backlog.

        Use it before publish_task to choose `to`. An agent that is offline still takes tasks: they wait for it.
        """
        coordinator = await bus_link.coordinator()
        counted = await OverviewReader(coordinator, recent=0).counted_agents(agent)
        most, detailed = _MAX_AGENTS[response_format], response_format == "detailed"
        data = Agents(
            note=await lost_note(coordinator, agent),
            agents=[agent_view(one, tasks, detailed=detailed) for one, tasks in counted[:most]],
            more=max(0, len(counted) - most) or None,
        )
        online = sum(one.online for one, _ in counted)
        return build_answer(f"{len(counted)} agents, {online} online.", data)

    return define(list_agents, "List agents", READS)
