"""Places streams in a cluster, and reads the state of their replicas and of those of consumers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import Cluster
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.bus.topology import wanted_consumers
from agentbus.errors import ApiError, BusUnavailableError
from agentbus.protocol import subjects

NO_PEERS: Final = 10005
"""The error of a cluster that has not enough servers with room."""
_PLACING_S: Final = 20.0
_PLACING_PAUSE_S: Final = 0.5
_PAUSE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of one stream or consumer.

    Attributes:
        cluster: the name of the cluster; empty for a server without one.
        leader: the server that takes changes; empty while there is none.
        current: how many replicas hold everything, that of the leader included.
        behind: the servers whose replicas do not, with the reason.
        moving: the server is still making replicas.
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
        """Whether all replicas exist and hold everything."""
        return bool(self.leader) and not self.moving and self.current >= self.wanted

    def __str__(self) -> str:
        if not self.leader:
            return f"{self.name} has no leader: nothing can be stored in it"
        text = f"{self.name} has {self.current} of {self.wanted} replicas current"
        return f"{text} ({', '.join(self.behind)})" if self.behind else text


def replicas_of(name: str, cluster: Cluster, wanted: int) -> Replicas:
    """Count the replicas of a stream or consumer that should have `wanted` of them."""
    behind = [
        f"{other.server} is offline" if other.offline else f"{other.server} is {other.lag} behind"
        for other in cluster.replicas
        if other.offline or not other.current
    ]
    return Replicas(
        name,
        wanted,
        cluster.name,
        cluster.leader,
        bool(cluster.leader) + len(cluster.replicas) - len(behind),
        tuple(behind),
        cluster.moving,
    )


async def place(bus: Bus, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a request that creates, changes or restores a stream.

    The servers of a cluster that has just started do not know each other's storage yet, and refuse. So that refusal is
    retried for a while.

    Raises:
        ApiError: any other refusal, or this one after 20 seconds.
    """
    async for attempt in retry_until(deadline_after(_PLACING_S), _PLACING_PAUSE_S):
        try:
            return await bus.api(verb, body)
        except ApiError as error:
            if error.err_code != NO_PEERS or attempt.last:
                raise
    raise AssertionError("the last attempt returns or raises")


async def stream_replicas(bus: Bus, stream: str) -> Replicas:
    """Read the state of the replicas of one stream.

    Raises:
        SetupMissingError: the stream does not exist.
    """
    info = await bus.stream_info(stream)
    return replicas_of(stream, info.cluster, info.num_replicas)


async def until_complete(
    bus: Bus, streams: Sequence[str], agents: Sequence[str], *, timeout_s: float
) -> list[Replicas]:
    """Wait until all replicas are current; returns the streams and consumers that are not by then.

    Raises:
        SetupMissingError: one of them does not exist.
    """
    left: list[Replicas] = []
    async for attempt in retry_until(deadline_after(timeout_s), _PAUSE_S):
        try:
            left = [item for item in await _look(bus, streams, agents) if not item.complete]
        except BusUnavailableError:
            # A stream without a leader does not answer.
            if attempt.last:
                raise
        else:
            if not left:
                break
    return left


async def _look(bus: Bus, streams: Sequence[str], agents: Sequence[str]) -> list[Replicas]:
    found = [await stream_replicas(bus, name) for name in streams]
    wanted = {item.name: item.wanted for item in found}.get(subjects.TASKS_STREAM, 1)
    for name in [config["durable_name"] for agent in agents for config in wanted_consumers(agent)]:
        info = await bus.consumer_info(subjects.TASKS_STREAM, name)
        # A consumer without a number has as many replicas as its stream.
        found.append(replicas_of(name, info.cluster, info.num_replicas or wanted))
    return found
