"""The whole bus at a glance: streams, agents, what runs, what has just ended."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from agentbus.agent_overview import AgentOverview
from agentbus.coordinator import Coordinator
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import State
from agentbus.tasks.status import TaskStatus

STREAMS: Final = (
    subjects.TASKS_STREAM,
    subjects.RESULTS_STREAM,
    subjects.STATE_STREAM,
    subjects.DEAD_STREAM,
    subjects.REGISTRY_STREAM,
)
_RUNNING: Final = 50
_PAGES: Final = 5
"""How many pages of the last changes are looked through for tasks that are settled."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StreamUsage:
    """How full a stream is. `max_bytes` is None where it has no limit of its own."""

    name: str
    messages: int
    bytes: int
    max_bytes: int | None

    def to_json(self) -> dict[str, Json]:
        """As a plain object."""
        return {"name": self.name, "messages": self.messages, "bytes": self.bytes, "max_bytes": self.max_bytes}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there was to see at one time.

    Attributes:
        agents: as of `Coordinator.overview`.
        running: the tasks that a worker has, at most 50, the last that changed first.
        recent: the tasks that have their result, the newest first.
        missing: streams that do not exist.
        hidden: what this user may not see.
    """

    at: datetime
    server_version: str
    streams: list[StreamUsage]
    agents: list[AgentOverview]
    running: list[TaskStatus]
    recent: list[TaskStatus]
    missing: list[str]
    hidden: list[str]

    def to_json(self) -> dict[str, Json]:
        """As a plain object; results are left out."""
        return {
            "at": self.at.isoformat(),
            "server_version": self.server_version,
            "streams": [usage.to_json() for usage in self.streams],
            "agents": [agent.to_json() for agent in self.agents],
            "running": [status.to_json(with_result=False) for status in self.running],
            "recent": [status.to_json(with_result=False) for status in self.recent],
            "missing": list[Json](self.missing),
            "hidden": list[Json](self.hidden),
        }


class Observer:
    """Takes snapshots. What the server has refused once is not asked for again: it logs every refusal."""

    def __init__(self, coordinator: Coordinator, *, recent: int = 10) -> None:
        self._coordinator = coordinator
        self._recent = recent
        self._hidden: set[str] = set()

    async def look(self) -> Snapshot:
        """What there is to see now.

        Raises:
            BusUnavailableError: the bus is away.
        """
        bus = self._coordinator
        missing: list[str] = []
        streams = [await self._allowed(name, lambda name=name: self._usage(name, missing)) for name in STREAMS]
        agents = await self._allowed("agents", bus.overview)
        running = await self._allowed("tasks", lambda: self._tasks("working", _RUNNING))
        recent = await self._allowed("tasks", self._ended)
        return Snapshot(
            at=datetime.now(UTC),
            server_version=bus.bus.server_version,
            streams=[usage for usage in streams if usage is not None],
            agents=agents or [],
            running=running or [],
            recent=recent or [],
            missing=missing,
            hidden=sorted(self._hidden),
        )

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

    async def _usage(self, name: str, missing: list[str]) -> StreamUsage | None:
        try:
            info = await self._coordinator.bus.stream_info(name)
        except SetupMissingError:
            missing.append(name)
            return None
        limit = info.max_bytes if info.max_bytes > 0 else None
        return StreamUsage(name, info.state.messages, info.state.bytes, limit)

    async def _tasks(self, state: State, limit: int) -> list[TaskStatus]:
        return (await self._coordinator.list_tasks(state=state, limit=limit)).tasks

    async def _ended(self) -> list[TaskStatus]:
        """The newest that are settled: among the last changes there are running and queued ones, too."""
        found: list[TaskStatus] = []
        cursor: int | None = None
        for _ in range(_PAGES):
            page = await self._coordinator.list_tasks(limit=2 * self._recent, cursor=cursor)
            found += [status for status in page.tasks if status.settled]
            cursor = page.cursor
            if len(found) >= self._recent or cursor is None:
                break
        return found[: self._recent]
