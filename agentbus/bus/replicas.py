"""How the copies of streams and consumers in a cluster are: how many there are, and how far they have come."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.retry import deadline_after, retry_until
from agentbus.errors import BusUnavailableError
from agentbus.protocol import subjects

_PAUSE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Replicas:
    """The copies of one stream or consumer.

    Attributes:
        cluster: the name of the cluster; empty for a server that is in none.
        leader: the server that has the copy that takes changes; empty while there is none.
        current: how many copies hold everything, that of the leader included.
        behind: the servers whose copies do not, with the reason.
        moving: the server is still making copies.
    """

    name: str
    wanted: int
    cluster: str = ""
    leader: str = ""
    current: int = 0
    behind: tuple[str, ...] = ()
    moving: bool = False

    @property
    def complete(self) -> bool:
        """Whether all copies are there and hold everything."""
        return bool(self.leader) and not self.moving and self.current >= self.wanted

    def __str__(self) -> str:
        if not self.leader:
            return f"{self.name} has no leader: nothing can be stored in it"
        text = f"{self.name} has {self.current} of {self.wanted} copies that are current"
        return f"{text} ({', '.join(self.behind)})" if self.behind else text


def copies(name: str, info: dict[str, Any]) -> Replicas:
    """Read what `STREAM.INFO` or `CONSUMER.INFO` says of the copies."""
    cluster: dict[str, Any] = info.get("cluster") or {}
    others: list[dict[str, Any]] = cluster.get("replicas") or []
    leader = str(cluster.get("leader") or "")
    behind = [
        f"{other.get('name')} is offline"
        if other.get("offline")
        else f"{other.get('name')} is {other.get('lag', 0)} behind"
        for other in others
        if other.get("offline") or not other.get("current")
    ]
    return Replicas(
        name,
        int(info["config"].get("num_replicas") or 1),
        str(cluster.get("name") or ""),
        leader,
        bool(leader) + len(others) - len(behind),
        tuple(behind),
        # From 2.15 on, the server makes copies in steps and says so.
        moving="desired" in cluster,
    )


async def until_complete(
    bus: Bus, streams: Sequence[str], agents: Sequence[str], *, timeout_s: float
) -> list[Replicas]:
    """Wait until all copies are current; returns those that were not by then.

    Raises:
        SetupMissingError: one of them does not exist.
    """
    left: list[Replicas] = []
    async for attempt in retry_until(deadline_after(timeout_s), _PAUSE_S):
        try:
            left = [item for item in await _look(bus, streams, agents) if not item.complete]
        except BusUnavailableError:
            # A stream that has no leader at the moment does not answer.
            if attempt.last:
                raise
        else:
            if not left:
                break
    return left


async def _look(bus: Bus, streams: Sequence[str], agents: Sequence[str]) -> list[Replicas]:
    found = [copies(name, await bus.api(f"STREAM.INFO.{name}")) for name in streams]
    wanted = {item.name: item.wanted for item in found}.get(subjects.TASKS_STREAM, 1)
    for agent in agents:
        name = subjects.durable(agent)
        info = await bus.api(f"CONSUMER.INFO.{subjects.TASKS_STREAM}.{name}")
        # A consumer that names no number has as many copies as its stream.
        info["config"]["num_replicas"] = info["config"].get("num_replicas") or wanted
        found.append(copies(name, info))
    return found
