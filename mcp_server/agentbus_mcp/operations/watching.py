"""Waiting for results, and what is said while a call waits and when it ends."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from mcp_types import CallToolResult

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.observability import tracing
from agentbus.tasks.inbox import InboxMessage
from agentbus.tasks.wait import Until, wait_for
from agentbus_mcp.operations import reading
from agentbus_mcp.operations.online_agents import Liveness, liveness
from agentbus_mcp.operations.reading import Found
from agentbus_mcp.replies import rendering, views
from agentbus_mcp.replies.models import NextCall, Results
from agentbus_mcp.replies.rendering import Room
from agentbus_mcp.replies.views import Draft

DEFAULT_WAIT_S: Final = 25
_STALE: Final = "the bus was away when the time was over; the states are those seen last"


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched, and for how long: some tasks, or an inbox behind a cursor."""

    task_ids: Sequence[str] = ()
    until: Until = "all"
    timeout_s: float = DEFAULT_WAIT_S
    cursor: int | None = None
    agent: str | None = None
    room: Room = field(default_factory=Room)

    def call(self, task_ids: Iterable[str] = (), cursor: int | None = None) -> NextCall:
        """The call that goes on with this watch, in the words of the one that began it."""
        arguments: dict[str, Any] = {"task_ids": list(task_ids)} if cursor is None else {"cursor": cursor}
        if len(arguments.get("task_ids", ())) > 1 and self.until == "any":
            arguments["until"] = "any"
        if self.agent is not None:
            arguments["agent"] = self.agent
        if self.timeout_s > DEFAULT_WAIT_S:
            arguments["timeout_seconds"] = self.timeout_s
        if self.room.format != "concise":
            arguments["response_format"] = self.room.format
        return NextCall(tool="watch_results", arguments=arguments)


async def watch(coordinator: Coordinator, wanted: Watch, tell: Callable[[str], None]) -> CallToolResult:
    """Wait for what is wanted, and give what is there then. `tell` is told what goes on meanwhile.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
        BusError: the bus cannot be asked.
    """
    if not wanted.task_ids:
        return await _watch_inbox(coordinator, wanted, tell)
    deadline = anyio.current_time() + wanted.timeout_s
    found = await reading.look_up(coordinator, wanted.task_ids, wanted.agent, timeout_s=wanted.timeout_s)
    waited = await wait_for(
        coordinator.bus,
        {(task.agent, task.task_id): task.record for task in found.known},
        until=wanted.until,
        timeout_s=max(0.0, deadline - anyio.current_time()),
        on_change=_account(found.known, tell),
    )
    tasks = {**waited.pending, **waited.settled}
    now = Found([tasks[task.task_id] for task in found.known], found.unknown)
    return await results_of(coordinator, now, wanted, note=None if waited.current else _STALE)


async def results_of(
    coordinator: Coordinator,
    found: Found,
    wanted: Watch,
    *,
    note: str | None = None,
    drafts: Sequence[Draft] | None = None,
) -> CallToolResult:
    """The results of tasks that are settled, and the state of the others with the call that waits for them."""
    settled = [task for task in found.known if task.settled]
    pending = [task for task in found.known if not task.settled]
    for task in settled:
        tracing.link(task.record.headers)
    alive = await _alive_for(coordinator, pending) if note is None else None
    notes = [text for text in (note, alive and alive.note(task.agent for task in pending if _queued(task))) if text]
    data = Results(
        note=". ".join(notes) or None,
        results=[],
        pending=[views.of_pending(task, alive and alive.online(task.agent)) for task in pending] or None,
        unknown=found.unknown or None,
        next=wanted.call(task_ids=[task.task_id for task in pending]) if pending else None,
    )
    summary = f"{len(settled)} with a result, {len(pending)} pending, {len(found.unknown)} unknown."
    if drafts is None:
        drafts = [views.draft_of_status(task) for task in settled]
    return rendering.results(summary, data, drafts, wanted.room)


async def _watch_inbox(coordinator: Coordinator, wanted: Watch, tell: Callable[[str], None]) -> CallToolResult:
    tell(f"waiting for messages in the inbox of {wanted.agent or coordinator.agent}")
    messages, cursor = await reading.next_messages(coordinator, wanted.cursor, wanted.timeout_s, wanted.agent)
    return await inbox_answer(coordinator, wanted, messages, cursor)


async def inbox_answer(
    coordinator: Coordinator, wanted: Watch, messages: Sequence[InboxMessage], cursor: int
) -> CallToolResult:
    """Messages of an inbox, and the call that waits for those behind them."""
    drafts = await reading.drafts(coordinator.bus, messages)
    data = Results(results=[], cursor=cursor, next=wanted.call(cursor=cursor))
    return rendering.results(f"{len(messages)} messages.", data, drafts, wanted.room)


async def _alive_for(coordinator: Coordinator, pending: Sequence[TaskStatus]) -> Liveness | None:
    """Who is alive, if a task waits for somebody."""
    return await liveness(coordinator) if any(_queued(task) for task in pending) else None


def _queued(task: TaskStatus) -> bool:
    return task.state == "queued"


def _account(tasks: Sequence[TaskStatus], tell: Callable[[str], None]) -> Callable[[TaskStatus], None]:
    """Tell how the tasks stand, now and whenever one changes its state: a renewed lease is no news."""
    states = {task.task_id: task.state for task in tasks}
    pending = {task.task_id for task in tasks if not task.settled}

    def standing() -> str:
        names = ("queued", "working", "completed", "failed", "needs_approval", "cancelled")
        counts = {name: sum(state == name for state in states.values()) for name in names}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)

    def on_change(task: TaskStatus) -> None:
        if states[task.task_id] != task.state:
            states[task.task_id] = task.state
            tell(f"{task.task_id}: {task.state} ({standing()})")

    if pending:
        tell(standing())
    return on_change
