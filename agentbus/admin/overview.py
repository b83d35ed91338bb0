"""Reads an overview of the bus in the order in which a person looks at it.

What needs a person, what runs, what waits, what was settled last; agents and streams beside it. All that shows a bus,
such as `agentbus status` and `top`, shows these data.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

from agentbus.admin.needs import Needs, needs_of
from agentbus.admin.queued_tasks import AgentTasks, QueueHeads, counts_of
from agentbus.admin.stream_usage import StreamUsage, usages, warnings
from agentbus.agent_overview import AgentBacklog, AgentOverview, AgentsNow, agents_now
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.bus.reading.ledger_parts import agent_ledgers, name_of, parts_in
from agentbus.bus.reading.ledger_reader import LedgerReader
from agentbus.concurrently import at_the_same_time
from agentbus.coordinator import Coordinator
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.progress.events import ProgressMessage
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.listing.last_changes import LastChanges, last_changes
from agentbus.tasks.listing.wanted import Wanted
from agentbus.tasks.presence import Seen
from agentbus.tasks.progress.last import last_of_each
from agentbus.tasks.questions.open_questions import MOST_ASKING, OpenQuestions
from agentbus.tasks.status import TaskStatus

STREAMS: Final = (
    subjects.TASKS_STREAM,
    subjects.RESULTS_STREAM,
    subjects.STATE_STREAM,
    subjects.DEAD_STREAM,
    subjects.REGISTRY_STREAM,
)
_MAX_RUNNING: Final = 50  # a large terminal shows no more
_LOOKED_AT: Final = 50
"""Of the tasks that were settled last: the failures among them need a person."""

_UNTIL_SENT: Final = 3
"""After how many turns of the event loop what was begun is on its way to the server."""
_MOST_OWN: Final = 100
_SEARCH_OWN_S: Final = 0.5
"""A search of the ledger for tasks that wait is repeated with each look."""
_SHOWN_OF_EACH: Final = 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BusOverview:
    """The state of the bus at one time.

    Attributes:
        servers: the addresses of the bus, without credentials.
        coordinator: the id under which it was read.
        agents: as `Coordinator.overview` returns them.
        needs: what needs a person, the most urgent first.
        running: the tasks that workers are running, at most 50, the last changed first; without results, as all here.
            One whose worker is gone is lost, and stands in `needs`.
        queued: tasks that wait, the oldest first, from the heads of the queues; where this user may not read them, its
            own.
        tasks: how many tasks of each agent wait and run.
        progress: what the running tasks told last, as far as it is kept.
        recent: the settled tasks, the newest first.
        to_the_end: whether all tasks were looked at for questions; otherwise those that changed last.
        warnings: which streams are nearly full, and how an administrator makes room.
        missing: streams that do not exist.
        hidden: the streams, and "agents" or "tasks", that this user may not read.
    """

    at: datetime
    servers: str
    coordinator: str
    server_version: str
    streams: list[StreamUsage]
    agents: list[AgentOverview]
    running: list[TaskStatus]
    recent: list[TaskStatus]
    warnings: list[str]
    missing: list[str]
    hidden: list[str]
    progress: dict[TaskKey, ProgressMessage] = field(default_factory=dict[TaskKey, ProgressMessage])
    needs: Needs = field(default_factory=lambda: Needs([], {}))
    queued: list[TaskStatus] = field(default_factory=list[TaskStatus])
    tasks: list[AgentTasks] = field(default_factory=list[AgentTasks])
    to_the_end: bool = True

    def tasks_of(self, agent: str) -> AgentTasks:
        """Return how many tasks of an agent wait and run."""
        return next((one for one in self.tasks if one.agent == agent), AgentTasks(agent, None, None))

    @property
    def queued_in_all(self) -> int:
        """How many tasks wait, as far as that is known."""
        return sum(one.queued or 0 for one in self.tasks)

    def to_json(self) -> dict[str, Json]:
        """Return the overview as a JSON object, without results."""
        return {
            "at": self.at.isoformat(),
            "servers": self.servers,
            "coordinator": self.coordinator,
            "server_version": self.server_version,
            "streams": [usage.to_json() for usage in self.streams],
            "needs": [need.to_json() for need in self.needs.named],
            "counts": {**self.needs.counts, "running": len(self.running), "queued": self.queued_in_all},
            "agents": [{**agent.to_json(), "tasks": self.tasks_of(agent.agent).to_json()} for agent in self.agents],
            "running": [self._running(status) for status in self.running],
            "queued": [status.to_json(with_result=False) for status in self.queued],
            "recent": [status.to_json(with_result=False) for status in self.recent],
            "warnings": list[Json](self.warnings),
            "missing": list[Json](self.missing),
            "hidden": list[Json](self.hidden),
        }

    def _running(self, status: TaskStatus) -> dict[str, Json]:
        told = self.progress.get(status.record.key)
        return {**status.to_json(with_result=False), **({"progress": told.summary()} if told else {})}


@dataclass(frozen=True, slots=True)
class _StreamsNow:
    """The streams that are there, and the ledgers of the agents; None where there is one of all, which is `ledger`."""

    streams: list[StreamInfo]
    ledgers: list[StreamInfo] | None

    @property
    def ledger(self) -> StreamInfo | None:
        return next((info for info in self.streams if name_of(info) == subjects.STATE_STREAM), None)


@dataclass(frozen=True, slots=True)
class _TasksNow:
    at: datetime
    agents: list[AgentOverview]
    changes: LastChanges
    running: list[TaskStatus]
    lost: list[TaskStatus]
    waiting: list[TaskStatus]
    counts: list[AgentTasks]


class OverviewReader:
    """Reads overviews. What the server refused once is not requested again, because the server logs every refusal."""

    def __init__(self, coordinator: Coordinator, *, recent: int = 10) -> None:
        self._coordinator = coordinator
        self._recent = recent
        self._hidden: set[str] = set()
        self._seen = Seen()
        self._heads = QueueHeads(coordinator.bus, coordinator.agent)
        self._questions = OpenQuestions(coordinator.bus, coordinator.agent)

    async def read(self) -> BusOverview:
        """Read the present state.

        Raises:
            BusUnavailableError: the bus cannot be reached.
        """
        bus = self._coordinator
        missing: list[str] = []
        now, there = await self._agents_and_streams(missing)
        found = await self._tasks_now(there, now)
        async with at_the_same_time() as group:
            telling = group.create_task(last_of_each(bus.bus, [status.record.key for status in found.running]))
            needs = await self._needs(found)
        return BusOverview(
            at=found.at,
            servers=bus.bus.settings.servers,
            coordinator=bus.agent,
            server_version=bus.bus.server_version,
            streams=usages(there.streams, there.ledgers),
            agents=found.agents,
            running=found.running,
            recent=found.changes.settled[: self._recent],
            warnings=warnings([*there.streams, *(there.ledgers or ())]),
            missing=[name for name in STREAMS if name in missing],
            hidden=sorted(self._hidden),
            progress=telling.result(),
            needs=needs,
            queued=_oldest_of_each(found.waiting),
            tasks=found.counts,
            to_the_end=found.changes.to_the_end,
        )

    async def _needs(self, found: "_TasksNow") -> Needs:
        """Say what needs a person; the questions among the last changes, and those that an earlier look has found."""
        changes = found.changes
        asked = await self._questions.among([*changes.asking, *changes.running, *changes.settled])
        queued = {one.agent: one.queued or 0 for one in found.counts}
        return needs_of(found.agents, asked, changes.settled, lost=found.lost, queued=queued, now=found.at)

    async def counted_agents(self, agent: str | None = None) -> list[tuple[AgentOverview, AgentTasks]]:
        """Return the agents, or `agent` only, each with how many of its tasks wait and run.

        Raises:
            SetupMissingError, PermissionDeniedError: see `Coordinator.overview`.
            BusUnavailableError: the bus cannot be reached.
        """
        now = await agents_now(self._coordinator.bus, subjects.agent_id(agent) if agent else None)
        ledgers = await self._allowed(subjects.STATE_STREAM, lambda: agent_ledgers(self._coordinator.bus))
        found = await self._tasks_now(_StreamsNow([], ledgers), now)
        counts = {one.agent: one for one in found.counts}
        return [(one, counts[one.agent]) for one in found.agents if agent in (None, one.agent)]

    async def _agents_and_streams(self, missing: list[str]) -> tuple[AgentsNow, _StreamsNow]:
        """Read the agents and the states of the streams, at the same time; each stream once."""
        async with at_the_same_time() as group:
            ledger = group.create_task(self._ledger(missing))
            others = [
                group.create_task(self._allowed(name, lambda name=name: self._stream(name, missing)))
                for name in STREAMS
                if name not in (subjects.STATE_STREAM, subjects.TASKS_STREAM)
            ]
            now = (
                await self._allowed("agents", lambda: agents_now(self._coordinator.bus, seen=self._seen)) or AgentsNow()
            )
            queue = now.queue or await self._allowed(
                subjects.TASKS_STREAM, lambda: self._stream(subjects.TASKS_STREAM, missing)
            )
        whole, ledgers = ledger.result()
        found = [queue, whole, *(one.result() for one in others)]
        by_name = {name_of(info): info for info in found if info is not None}
        return now, _StreamsNow([by_name[name] for name in STREAMS if name in by_name], ledgers)

    async def _ledger(self, missing: list[str]) -> tuple[StreamInfo | None, list[StreamInfo] | None]:
        """Return the state of the one ledger of all, or those of the ledgers of the agents."""
        name = subjects.STATE_STREAM
        ledgers = await self._allowed(name, lambda: agent_ledgers(self._coordinator.bus))
        whole = None if ledgers is not None else await self._allowed(name, lambda: self._stream(name, missing))
        return whole, ledgers

    async def _tasks_now(self, there: _StreamsNow, now: AgentsNow) -> "_TasksNow":
        async with at_the_same_time() as group:
            queue = group.create_task(self._waiting(now.backlogs))
            looking = group.create_task(self._allowed("tasks", lambda: self._tasks(there, now.backlogs)))
            for _ in range(_UNTIL_SENT):
                await asyncio.sleep(0)
            agents = now.agents  # the server answers meanwhile
        changes = looking.result() or LastChanges()
        working = changes.running
        lost = [] if "agents" in self._hidden else _lost(working, agents)
        waiting, own = queue.result()
        agents = [*agents, *_without_worker(agents, waiting)]
        all_working = "tasks" not in self._hidden and len(working) < _MAX_RUNNING
        counts = counts_of(agents, working, lost=lost, waiting=waiting, all_working=all_working, own=own)
        running = [status for status in working if status not in lost]
        return _TasksNow(datetime.now(UTC), agents, changes, running, lost, waiting, counts)

    async def _waiting(self, agents: Sequence[AgentBacklog]) -> tuple[list[TaskStatus], bool]:
        """Return tasks that wait, the oldest first, and whether they are the own ones in the ledger.

        The queue tells which wait longest. Who may not read it, as a member, sees those that its ledger has.
        """
        bus = self._coordinator
        if bus.role != "member":
            heads = await self._allowed("queue", lambda: self._heads.waiting(agents)) or []
            if bus.bus.reads_queue:
                return heads, False
        listed = await self._allowed(
            "tasks",
            lambda: bus.list_tasks(state="queued", limit=_MOST_OWN, with_results=False, search_s=_SEARCH_OWN_S),
        )
        found = [] if listed is None else [status for status in listed.tasks if not status.settled]
        return sorted(found, key=lambda status: status.record.entry.created_at or ""), True

    async def _allowed(self, name: str, read: Callable[[], Awaitable[_T | None]]) -> _T | None:
        if name in self._hidden:
            return None
        try:
            return await read()
        except SetupMissingError:
            return None
        except PermissionDeniedError:
            self._hidden.add(name)
            return None

    async def _stream(self, name: str, missing: list[str]) -> StreamInfo | None:
        try:
            counted = subjects.all_of("*") if name == subjects.TASKS_STREAM else ""
            return await self._coordinator.bus.stream_info(name, subjects_filter=counted)
        except SetupMissingError:
            missing.append(name)
            return None

    async def _tasks(self, there: _StreamsNow, agents: Sequence[AgentBacklog]) -> LastChanges:
        """Return what runs, what asks and what was settled last, by one look at the last changes."""
        bus = self._coordinator
        wanted = Wanted(owner=bus.agent if bus.role == "member" else None, asker=bus.agent, with_results=False)
        return await last_changes(
            LedgerReader(bus.bus, parts_in(bus.bus, there.ledgers, wanted.subject, whole=there.ledger)),
            bus.bus,
            wanted,
            running=_MAX_RUNNING,
            settled=max(self._recent, _LOOKED_AT),
            asking=MOST_ASKING,
            in_work={one.agent: one.unacknowledged for one in agents},
        )


def _lost(working: Sequence[TaskStatus], agents: Sequence[AgentOverview]) -> list[TaskStatus]:
    """Return the tasks whose worker is gone."""
    if not working:
        return []
    alive = {(worker.agent, worker.instance) for agent in agents for worker in agent.workers}
    return [
        status
        for status in working
        if (claim := status.record.entry.claim) is not None and (status.agent, claim.worker) not in alive
    ]


def _without_worker(agents: Sequence[AgentOverview], waiting: Sequence[TaskStatus]) -> list[AgentOverview]:
    """Return the agents that tasks wait for and that are not known: who may not read the queue sees those alive."""
    known = {one.agent for one in agents}
    return [AgentOverview(agent, ()) for agent in sorted({status.agent for status in waiting} - known)]


def _oldest_of_each(waiting: Sequence[TaskStatus]) -> list[TaskStatus]:
    """Return the tasks that still wait, so many of each agent."""
    seen, found = Counter[str](), list[TaskStatus]()
    for status in waiting:
        if not status.settled and seen[status.agent] < _SHOWN_OF_EACH:
            seen[status.agent] += 1
            found.append(status)
    return found
