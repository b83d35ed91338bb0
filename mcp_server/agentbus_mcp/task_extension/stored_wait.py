"""Stores what an MCP task waits for in its record. The names of the fields are the stored format."""

import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentbus.coordinator import TaskStatus
from agentbus.errors import CorruptEntryError
from agentbus.protocol.task_names import TaskName
from agentbus.tasks.waiting.wait import Until
from agentbus_mcp.operations.watch import DEFAULT_WAIT_S, WatchRequest
from agentbus_mcp.replies.budget import DetailLevel, ResponseDetail
from agentbus_mcp.replies.models import Publication
from agentbus_mcp.task_extension.task_support import State

_STORED = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class _StoredDetail(BaseModel):
    model_config = _STORED

    format: DetailLevel = "concise"
    max_bytes: int | None = None


class _StoredWatch(BaseModel):
    model_config = _STORED

    task_ids: list[str] = Field(default_factory=list)
    until: Until = "all"
    timeout_s: float = DEFAULT_WAIT_S
    cursor: int | None = None
    agent: str | None = None
    names: list[str] | None = None
    room: _StoredDetail = Field(default_factory=_StoredDetail)


class StoredWait(BaseModel):
    """The state of an MCP task that waits for results.

    Attributes:
        inbox: the owner of the watched inbox, if no tasks are named.
        elicits: whether the client supports elicitation.
        deadline: when the wait ends with the results so far, in seconds since the epoch.
        publication: the tasks that the call published; cancelling the MCP task cancels them.
    """

    model_config = _STORED

    watch: _StoredWatch
    inbox: str
    elicits: bool
    deadline: float | None = None
    publication: Publication | None = None

    @classmethod
    def of_watch(
        cls, request: WatchRequest, detail: ResponseDetail, *, inbox: str, elicits: bool, deadline: float | None
    ) -> "StoredWait":
        """Make the wait of a call of `watch_results`."""
        names = list(request.task_ids)
        ids = [name.rpartition("/")[2] for name in names]  # what servers before the names read
        watch = _StoredWatch(
            task_ids=ids,
            names=names if names != ids else None,
            until=request.until,
            timeout_s=request.timeout_s,
            cursor=request.cursor,
            agent=request.agent,
            room=_StoredDetail(format=detail.level, max_bytes=detail.max_bytes),
        )
        return cls(watch=watch, inbox=inbox, elicits=elicits, deadline=deadline)

    @classmethod
    def of_publication(cls, publication: Publication, *, inbox: str, elicits: bool) -> "StoredWait":
        """Make a wait for the results of published tasks."""
        watch = _StoredWatch(task_ids=[task.task_id for task in publication.published])
        return cls(watch=watch, inbox=inbox, elicits=elicits, publication=publication)

    @classmethod
    def from_state(cls, state: State) -> "StoredWait":
        """Read the state of an MCP task.

        Raises:
            CorruptEntryError: it is not a valid state.
        """
        try:
            return cls.model_validate(state)
        except ValidationError:
            raise CorruptEntryError("the record of an MCP task has no readable state") from None

    def to_state(self) -> State:
        """Return the state for the record of the MCP task."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def request(self) -> WatchRequest:
        """The request of the wait."""
        watch = self.watch
        return WatchRequest(self.task_names, watch.until, watch.timeout_s, watch.cursor, watch.agent)

    @property
    def detail(self) -> ResponseDetail:
        """The requested detail of the results."""
        return ResponseDetail(self.watch.room.format, self.watch.room.max_bytes)

    @property
    def task_names(self) -> list[str]:
        """The tasks, with their agents as far as they are known: others may write tasks of the same ids meanwhile."""
        if self.publication is not None:
            return [str(TaskName(task.task_id, task.agent)) for task in self.publication.published]
        return self.watch.names or self.watch.task_ids

    @property
    def timed_out(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.time() >= self.deadline

    def is_complete(self, tasks: Sequence[TaskStatus], asking: Sequence[TaskStatus]) -> bool:
        """Return whether enough tasks have their result. A task that asks for approval has none."""
        done = [task.settled and task not in asking for task in tasks]
        return all(done) if self.watch.until == "all" else any(done)
