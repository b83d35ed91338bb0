"""Agents with their living workers and their backlog, as `agentbus agent list` and `list_agents` show them."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.concurrently import at_the_same_time
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.parties.control_entry import OperatorPause
from agentbus.tasks.agent_pauses import operator_pauses
from agentbus.tasks.presence import PausedWorker, Presence, Seen, registered, workers_in

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
        workers = self.workers
        return workers[0].paused if workers and all(worker.paused for worker in workers) else None

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


@dataclass(frozen=True, slots=True)
class _Backlog:
    """How many tasks agents have in the queue.

    Attributes:
        counted: the waiting and the unacknowledged tasks of each agent, and what its consumer delivered last.
        without_consumer: the tasks of the agents without a consumer, which no worker has ever taken tasks for.
        queue: the state of the queue, if it was read.
    """

    counted: dict[str, tuple[int, int, int]] = field(default_factory=dict[str, tuple[int, int, int]])
    without_consumer: dict[str, int] = field(default_factory=dict[str, int])
    queue: StreamInfo | None = None

    @property
    def counts(self) -> dict[str, tuple[int, int, int]]:
        """The counts of all agents, as `counted` has them."""
        return {**self.counted, **{name: (count, 0, 0) for name, count in self.without_consumer.items()}}


@dataclass(frozen=True, slots=True)
class AgentBacklog:
    """What an `AgentOverview` says of the tasks of an agent. `online`: whether the registry has an entry of it."""

    agent: str
    online: bool
    waiting: int | None = None
    unacknowledged: int | None = None
    delivered_seq: int = 0

    @property
    def in_queue(self) -> int | None:
        """How many tasks the queue holds of the agent, given to a worker or not; None if that is not known."""
        return None if self.waiting is None or self.unacknowledged is None else self.waiting + self.unacknowledged


@dataclass(frozen=True)
class AgentsNow:
    """What was read of the agents; the entries of their workers are read when they are asked for.

    A thousand of these take longer than the server needs to answer: who asks it something first waits less.

    Attributes:
        queue: the state of the queue by which tasks were counted; None where this user may not read it.
    """

    queue: StreamInfo | None = None
    _found: _Backlog = field(default_factory=_Backlog)
    _by_hand: dict[str, OperatorPause] = field(default_factory=dict[str, OperatorPause])
    _entries: list[Delivery] = field(default_factory=list[Delivery])
    _seen: Seen | None = None

    @cached_property
    def backlogs(self) -> list[AgentBacklog]:
        """The tasks of each agent, by name."""
        online = {subjects.agent_of_presence(entry.subject) for entry in self._entries}
        counts = self._found.counts
        return [
            AgentBacklog(name, name in online, *counts.get(name, (None, None, 0)))
            for name in sorted({*online, *counts})
        ]

    @cached_property
    def agents(self) -> list[AgentOverview]:
        """The agents with their workers, by name."""
        of_agents: dict[str, list[Presence]] = {}
        for worker in workers_in(self._entries, self._seen):
            of_agents.setdefault(worker.agent, []).append(worker)
        counts = self._found.counts
        return [
            AgentOverview(
                name,
                tuple(of_agents.get(name, ())),
                *counts.get(name, (None, None, 0))[:2],
                self._by_hand.get(name),
                delivered_seq=counts.get(name, (None, None, 0))[2],
                named=name not in self._found.without_consumer or name in of_agents,
            )
            for name in sorted({*of_agents, *counts})
        ]


async def overview_of_agents(bus: Bus, agent: str | None = None) -> list[AgentOverview]:
    """List the agents that have a living worker, a consumer or a waiting task, by name; or `agent` only.

    Without the right to look at consumers, only agents with a living worker are listed.

    Raises:
        SetupMissingError: there is no registry on this bus.
        PermissionDeniedError: this user may not read the registry.
    """
    return (await agents_now(bus, agent)).agents


async def agents_now(bus: Bus, agent: str | None = None, *, seen: Seen | None = None) -> AgentsNow:
    """Read the same with the state of the queue, for one who shows both; `seen`: see `workers_in`."""
    async with at_the_same_time() as group:
        counting = group.create_task(_backlog(bus, agent))
        pausing = group.create_task(operator_pauses(bus))
        entries = await registered(bus, agent)
    found = counting.result()
    return AgentsNow(found.queue, found, pausing.result(), entries, seen)


async def _backlog(bus: Bus, agent: str | None) -> _Backlog:
    """Count the waiting and the unacknowledged tasks of each agent, with all that are stored now.

    The server acknowledges a stored task a moment before it counts it for the consumer. So this reads again, for a
    bounded time, while a consumer counts fewer tasks than the stream holds.
    """
    try:
        counted = await _counted(bus, agent)
    except PermissionDeniedError:
        return _Backlog()
    try:
        queue = await _queue(bus, agent)
        stored = _stored(queue)
        async for _ in retry_until(deadline_after(_COUNT_TIMEOUT_S), pause_s=_PAUSE_S):
            if all(sum(counts[:2]) >= stored.get(name, 0) for name, counts in counted.items()):
                break
            counted, queue = await _counted(bus, agent), await _queue(bus, agent)
            # A worker may have settled some of them, which lowers both numbers.
            now = _stored(queue)
            stored = {name: min(count, now.get(name, 0)) for name, count in stored.items()}
    except PermissionDeniedError:
        return _Backlog(counted)  # what the stream holds is not for this user to read; the counts are right soon
    without = {name: count for name, count in stored.items() if count and name not in counted}
    return _Backlog(counted, without, queue)


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


async def _queue(bus: Bus, agent: str | None) -> StreamInfo:
    """Read the state of the queue, with how many messages each subject has: it holds tasks only, of both forms."""
    return await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=subjects.all_of(agent or "*"))


def _stored(queue: StreamInfo) -> dict[str, int]:
    """How many tasks of each agent the stream holds, delivered or not."""
    found: dict[str, int] = {}
    for subject, count in (queue.state.subjects or {}).items():
        if (named := subjects.agent_and_party(subject, "tasks")) is not None:
            found[named[0]] = found.get(named[0], 0) + count
    return found
