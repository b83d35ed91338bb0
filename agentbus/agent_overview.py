"""Agents with their living workers and their backlog, as `agentbus agent list` and `list_agents` show them."""

from dataclasses import dataclass
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.parties.control_entry import OperatorPause
from agentbus.tasks.agent_pauses import operator_pauses
from agentbus.tasks.presence import PausedWorker, Presence, present

_COUNT_TIMEOUT_S: Final = 1.0
"""The server counts within milliseconds; a count that stays behind must not keep the overview back."""
_PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class AgentOverview:
    """One agent at one moment.

    Attributes:
        workers: its living workers, by instance.
        waiting: how many tasks no worker has been given. None if this user may not look at consumers, or if the agent
            has no consumer yet.
        unacknowledged: how many tasks a worker has been given and has not settled; None as above.
        named: whether a worker or a set-up has named the agent. Of any other, there are tasks only.
        paused_by: who has paused the agent by hand, as far as this user may know.
        delivered_seq: messages of the queue behind this sequence were given to no worker; 0 where that is not known.
    """

    agent: str
    workers: tuple[Presence, ...]
    waiting: int | None = None
    unacknowledged: int | None = None
    paused_by: OperatorPause | None = None
    named: bool = True
    delivered_seq: int = 0

    @property
    def online(self) -> bool:
        """Whether a worker of the agent is alive."""
        return bool(self.workers)

    @property
    def in_queue(self) -> int | None:
        """How many tasks the queue holds of the agent, given to a worker or not; None if that is not known."""
        if self.waiting is None or self.unacknowledged is None:
            return None
        return self.waiting + self.unacknowledged

    @property
    def paused(self) -> PausedWorker | None:
        """Why no worker takes tasks now, if all that are alive are paused; None otherwise."""
        pauses = [worker.paused for worker in self.workers]
        return pauses[0] if pauses and all(pauses) else None

    @property
    def troubles(self) -> list[str]:
        """What keeps its workers from their work, each as a line for a person; its text is that of other parties."""
        by_hand = [] if self.paused_by is None else [f"{self.paused_by.in_words}; agentbus agent resume {self.agent}"]
        return [*by_hand, *(trouble for worker in self.workers for trouble in worker.troubles)]

    def to_json(self) -> dict[str, Json]:
        """Return a plain object; counts that are not known are left out, and troubles where there are none."""
        counts = {"waiting": self.waiting, "unacknowledged": self.unacknowledged}
        return {
            "agent": self.agent,
            "online": self.online,
            **{name: count for name, count in counts.items() if count is not None},
            **({"paused_by": self.paused_by.model_dump()} if self.paused_by else {}),
            **({"troubles": self.troubles} if self.troubles else {}),
            "workers": [worker.model_dump(exclude_none=True) for worker in self.workers],
        }


async def overview_of_agents(bus: Bus, agent: str | None = None) -> list[AgentOverview]:
    """List the agents that have a living worker, a consumer or a waiting task, by name; or `agent` only.

    Without the right to look at consumers, only agents with a living worker are listed.

    Raises:
        SetupMissingError: there is no registry on this bus.
        PermissionDeniedError: this user may not read the registry.
    """
    counted, without_consumer = await _backlog(bus, agent)
    backlog = {**counted, **{name: (count, 0, 0) for name, count in without_consumer.items()}}
    workers, by_hand = await present(bus, agent), await operator_pauses(bus)
    names = sorted({worker.agent for worker in workers} | set(backlog))
    return [
        AgentOverview(
            name,
            tuple(worker for worker in workers if worker.agent == name),
            *backlog.get(name, (None, None, 0))[:2],
            by_hand.get(name),
            delivered_seq=backlog.get(name, (None, None, 0))[2],
            named=name not in without_consumer or any(worker.agent == name for worker in workers),
        )
        for name in names
    ]


async def _backlog(bus: Bus, agent: str | None) -> tuple[dict[str, tuple[int, int, int]], dict[str, int]]:
    """Count the waiting and the unacknowledged tasks of each agent, with all that are stored now.

    Those of agents without a consumer, which no worker has ever taken tasks for, are counted apart.

    The server acknowledges a stored task a moment before it counts it for the consumer. So this reads again, for a
    bounded time, while a consumer counts fewer tasks than the stream holds.
    """
    try:
        counted = await _counted(bus, agent)
    except PermissionDeniedError:
        return {}, {}
    try:
        stored = await _stored(bus, agent)
        async for _ in retry_until(deadline_after(_COUNT_TIMEOUT_S), pause_s=_PAUSE_S):
            if all(sum(counts[:2]) >= stored.get(name, 0) for name, counts in counted.items()):
                break
            counted, now = await _counted(bus, agent), await _stored(bus, agent)
            # A worker may have settled some of them, which lowers both numbers.
            stored = {name: min(count, now.get(name, 0)) for name, count in stored.items()}
    except PermissionDeniedError:
        return counted, {}  # what the stream holds is not for this user to read; the counts are right a moment later
    return counted, {name: count for name, count in stored.items() if count and name not in counted}


async def _counted(bus: Bus, agent: str | None) -> dict[str, tuple[int, int, int]]:
    """The waiting and the unacknowledged tasks that the consumers of each agent count, and what they delivered last.

    Of the two consumers of an agent that is the earlier one, of those that have something to deliver.
    """
    found: dict[str, tuple[int, int, int]] = {}
    for consumer in await bus.consumers(subjects.TASKS_STREAM):
        name = subjects.agent_of_filter(consumer.filter_subject)
        if name is not None and agent in (None, name):
            waiting, unacknowledged, delivered = found.get(name, (0, 0, 0))
            if consumer.num_pending:
                seq = consumer.delivered_stream_seq
                delivered = min(delivered, seq) if waiting else seq
            waiting, unacknowledged = waiting + consumer.num_pending, unacknowledged + consumer.num_ack_pending
            found[name] = waiting, unacknowledged, delivered
    return found


async def _stored(bus: Bus, agent: str | None) -> dict[str, int]:
    """How many tasks of each agent the stream holds, delivered or not."""
    wanted = subjects.all_of(agent or "*")  # the stream holds tasks only, of both forms
    counts = (await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=wanted)).state.subjects or {}
    found: dict[str, int] = {}
    for subject, count in counts.items():
        if (named := subjects.agent_and_party(subject, "tasks")) is not None:
            found[named[0]] = found.get(named[0], 0) + count
    return found
