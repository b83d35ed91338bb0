"""Whether anybody is there for a task: the living workers and the backlog of agents, if the bus says so in time."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

import anyio

from agentbus.coordinator import Coordinator
from agentbus.errors import BusError
from agentbus.protocol.json_codec import Json

_WITHIN_S: Final = 2.0
_MAX_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Liveness:
    """What is known of the agents at one moment; `known` is false where the bus did not say."""

    known: bool
    _agents: dict[str, dict[str, Json]]

    def online(self, agent: str) -> bool | None:
        """Whether a worker of an agent is alive; None if nobody knows."""
        return bool(self._agents.get(agent, {}).get("online")) if self.known else None

    def waiting(self, agent: str) -> int | None:
        """How many tasks of an agent no worker has been given; None if nobody knows."""
        return cast("int | None", self._agents.get(agent, {}).get("waiting"))

    def note(self, agents: Iterable[str]) -> str | None:
        """What a coordinator should know of the agents that it has given tasks to."""
        away = sorted({agent for agent in agents if self.online(agent) is False})
        if not away:
            return None
        alive = [agent for agent in self._agents if self.online(agent)]
        more = f" and {len(alive) - _MAX_NAMED} more" if len(alive) > _MAX_NAMED else ""
        return (
            f"no worker of {', '.join(away)} is alive now: the task waits for one, for up to 7 days. "
            f"Alive: {', '.join(alive[:_MAX_NAMED]) or 'none'}{more}"
        )


async def liveness(coordinator: Coordinator) -> Liveness:
    """What the bus says of its agents; nothing if it does not answer soon, or this user may not read it."""
    with anyio.move_on_after(_WITHIN_S):
        try:
            overview = await coordinator.overview()
        except BusError:
            return Liveness(known=False, _agents={})
        return Liveness(known=True, _agents={str(account["agent"]): account for account in overview})
    return Liveness(known=False, _agents={})
