"""Agents with their living workers and their backlog, as `agentbus agent list` and `list_agents` show them."""

from dataclasses import dataclass

from agentbus.bus.jetstream import Bus
from agentbus.bus.setup import consumers_of
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.tasks.presence import Presence, present


@dataclass(frozen=True, slots=True)
class AgentOverview:
    """One agent at one moment.

    Attributes:
        workers: its living workers, by instance.
        waiting: how many tasks no worker has been given. None if this user may not look at consumers, or if the agent
            has no consumer yet.
        unacknowledged: how many tasks a worker has been given and has not settled; None as above.
    """

    agent: str
    workers: tuple[Presence, ...]
    waiting: int | None = None
    unacknowledged: int | None = None

    @property
    def online(self) -> bool:
        """Whether a worker of the agent is alive."""
        return bool(self.workers)

    def to_json(self) -> dict[str, Json]:
        """Return a plain object; counts that are not known are left out."""
        counts = {"waiting": self.waiting, "unacknowledged": self.unacknowledged}
        return {
            "agent": self.agent,
            "online": self.online,
            **{name: count for name, count in counts.items() if count is not None},
            "workers": [worker.model_dump() for worker in self.workers],
        }


async def overview_of_agents(bus: Bus, agent: str | None = None) -> list[AgentOverview]:
    """List the agents that have a living worker or a consumer, by name; or `agent` only.

    Without the right to look at consumers, only agents with a living worker are listed.

    Raises:
        SetupMissingError: there is no registry on this bus.
        PermissionDeniedError: this user may not read the registry.
    """
    backlog = await _backlog(bus, agent)
    workers = await present(bus, agent)
    names = sorted({worker.agent for worker in workers} | set(backlog))
    return [
        AgentOverview(
            name,
            tuple(worker for worker in workers if worker.agent == name),
            *backlog.get(name, (None, None)),
        )
        for name in names
    ]


async def _backlog(bus: Bus, agent: str | None) -> dict[str, tuple[int, int]]:
    """Count the waiting and the unacknowledged tasks of each agent."""
    try:
        consumers = await consumers_of(bus, subjects.TASKS_STREAM)
    except PermissionDeniedError:
        return {}
    found: dict[str, tuple[int, int]] = {}
    for consumer in consumers:
        name = subjects.agent_of(str(consumer["config"].get("filter_subject")), "tasks")
        if name is not None and agent in (None, name):
            found[name] = consumer["num_pending"], consumer["num_ack_pending"]
    return found
