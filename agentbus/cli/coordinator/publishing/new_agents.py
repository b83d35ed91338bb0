"""Refuses to publish for an agent that the bus has never seen: more often it is a typing error than a new agent."""

from collections.abc import Iterable

from agentbus.coordinator import Coordinator
from agentbus.errors import ArgumentError
from agentbus.tasks.listing.known_agents import nearest, unknown_agents

_MOST_NAMED = 5


async def refuse_unknown(bus: Coordinator, agents: Iterable[str]) -> None:
    """Refuse agents that the bus has never seen, where this party may see which there are.

    Raises:
        ArgumentError: one of them is; the message has the nearest name.
    """
    for agent, known in (await unknown_agents(bus.bus, agents)).items():
        near = nearest(agent, known)
        more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
        hint = f"did you mean {near}?" if near else f"it knows {', '.join(known[:_MOST_NAMED])}{more}."
        raise ArgumentError(
            f"this bus has never seen an agent {agent}; {hint} Nothing was published. For a new agent: --new-agent"
        )
