"""The living workers and the backlog of agents, as far as the bus answers in time."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import anyio

from agentbus.agent_overview import AgentOverview
from agentbus.coordinator import Coordinator
from agentbus.errors import BusError
from agentbus.tasks.listing.known_agents import nearest
from agentbus_mcp.sanitize import short

_TIMEOUT_S: Final = 2.0
"""The status is an extra to an answer, which must not wait long for it."""
_MAX_LISTED: Final = 10


@dataclass(frozen=True, slots=True)
class AgentsStatus:
    """What is known of the agents at one moment; `known` is false where the bus did not answer."""

    known: bool
    _agents: dict[str, AgentOverview]

    def online(self, agent: str) -> bool | None:
        """Whether a worker of an agent is alive; None if that is unknown."""
        return (agent in self._agents and self._agents[agent].online) if self.known else None

    def waiting(self, agent: str) -> int | None:
        """How many tasks of an agent no worker has been given; None if that is unknown."""
        return self._agents[agent].waiting if agent in self._agents else None

    def offline_note(self, agents: Iterable[str]) -> str | None:
        """Warn of the agents among `agents` whose tasks no worker takes now; None if there are none."""
        wanted = sorted(set(agents))
        by_hand = [agent for agent in wanted if agent in self._agents and self._agents[agent].paused_by is not None]
        notes = [
            self._without_worker([agent for agent in wanted if self.online(agent) is False and agent not in by_hand])
        ]
        notes += [self._paused(self._agents[agent]) for agent in wanted if agent in self._agents]
        return ". ".join(note for note in notes if note) or None

    def _paused(self, agent: AgentOverview) -> str:
        if agent.paused_by is not None:
            return f"{agent.agent} is {short(agent.paused_by.in_words)}. Its tasks wait and are not lost"
        paused = agent.paused
        if paused is None:
            return ""
        return f"every worker of {agent.agent} is {short(paused.in_words)}. Its tasks wait and are not lost"

    def _without_worker(self, offline: list[str]) -> str:
        if not offline:
            return ""
        alive = [agent for agent in self._agents if self.online(agent)]
        more = f" and {len(alive) - _MAX_LISTED} more" if len(alive) > _MAX_LISTED else ""
        return (
            f"no worker of {', '.join(offline)} is alive now: the task waits for one, for up to 7 days. "
            f"{''.join(map(self._meant, offline))}Alive: {', '.join(alive[:_MAX_LISTED]) or 'none'}{more}"
        )

    def _meant(self, agent: str) -> str:
        """Name the agent that was probably meant in place of one that the bus has never seen."""
        known = [name for name, found in self._agents.items() if found.named and name != agent]
        if (agent in self._agents and self._agents[agent].named) or (near := nearest(agent, known)) is None:
            return ""
        return f"This bus has never seen {agent}: did you mean {near}? Cancel the task then. "


async def agents_status(coordinator: Coordinator) -> AgentsStatus:
    """Read the status of all agents; it is unknown where the bus does not answer soon or refuses."""
    with anyio.move_on_after(_TIMEOUT_S):
        try:
            overview = await coordinator.overview()
        except BusError:
            return AgentsStatus(known=False, _agents={})
        return AgentsStatus(known=True, _agents={found.agent: found for found in overview})
    return AgentsStatus(known=False, _agents={})
