"""Waits for the results of tasks, or for new messages in an inbox, and reports progress meanwhile."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

import anyio

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import AgentBusError
from agentbus.observability import tracing
from agentbus.protocol.progress.events import ProgressMessage
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.progress.last import last_of_each
from agentbus.tasks.questions.asked import asked_by
from agentbus.tasks.waiting.listeners import Listeners
from agentbus.tasks.waiting.wait import Until, wait_for
from agentbus_mcp.operations.agents_status import AgentsStatus, agents_status
from agentbus_mcp.operations.inbox import InboxPage, next_messages
from agentbus_mcp.operations.left_files import Saved
from agentbus_mcp.operations.look_up import FoundTasks, look_up
from agentbus_mcp.operations.output import OutputPart, beginnings
from agentbus_mcp.operations.runs import reporting_runs
from agentbus_mcp.operations.told_questions import ToldQuestions
from agentbus_mcp.operations.waits import Waits
from agentbus_mcp.sanitize import short

DEFAULT_WAIT_S: Final = 25
"""Hosts give up on a call after one to five minutes; a model that waits longer calls again."""


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What to watch, and for how long: tasks, or the inbox after a cursor where no tasks are named.

    Attributes:
        follows: also report what the runs of the tasks do.
        group: the group of which the tasks are; see `agentbus_mcp.operations.group_watch`.
        beside: tasks whose results are shown as well, and end no wait.
        others: how many tasks of it are in which state, that are not among them.
    """

    task_ids: Sequence[str] = ()
    until: Until = "all"
    timeout_s: float = DEFAULT_WAIT_S
    cursor: int | None = None
    agent: str | None = None
    follows: bool = False
    group: str | None = None
    beside: Sequence[str] = ()
    others: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class TasksOutcome:
    """What became of tasks.

    Attributes:
        errors: of the ids that could not be looked up.
        agents: the status of the agents, read only where a task is queued and the states are current.
        stale: the bus was away at the end; the states are those read last.
        progress: what the runs of pending tasks told last.
        saved: what was saved of the one task on this machine.
        outputs: parts of the outputs of settled tasks, of those of which the result does not hold the part to show.
    """

    settled: list[TaskStatus]
    pending: list[TaskStatus]
    errors: dict[str, AgentBusError]
    agents: AgentsStatus | None = None
    stale: bool = False
    outputs: Mapping[TaskKey, OutputPart] = field(default_factory=dict[TaskKey, OutputPart])
    progress: Mapping[TaskKey, ProgressMessage] = field(default_factory=dict[TaskKey, ProgressMessage])
    saved: Saved | None = None


async def watch(
    coordinator: Coordinator, request: WatchRequest, report: Callable[[str], None], waits: Waits
) -> TasksOutcome | InboxPage:
    """Wait for what is requested; `report` gets a line whenever a task changes its state.

    `waits` may end it early, and so does a question of a task: see `ToldQuestions`.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
        BusError: the bus cannot be asked.
    """
    if not request.task_ids:
        report(f"waiting for messages in the inbox of {request.agent or coordinator.agent}")
        return await next_messages(coordinator, request.cursor, request.timeout_s, request.agent, waits=waits)
    with waits.at_most(inf):
        return await watch_tasks(coordinator, request, report, waits.told_questions)
    return await watch_tasks(coordinator, replace(request, timeout_s=0), report, waits.told_questions)


async def watch_tasks(
    coordinator: Coordinator, request: WatchRequest, report: Callable[[str], None], told: ToldQuestions
) -> TasksOutcome:
    """Wait for the tasks of a request, or until one of them asks a person something that this client was not told.

    Raises:
        TaskNotFoundError, BusError: as `watch`.
    """
    deadline = anyio.current_time() + request.timeout_s
    found = await look_up(coordinator, request.task_ids, request.agent, timeout_s=request.timeout_s)
    async with reporting_runs(coordinator.bus, found.tasks, report, wanted=request.follows) as note:
        waited = await wait_for(
            coordinator.bus,
            {task.record.key: task.record for task in found.tasks},
            asker=coordinator.agent,
            until=request.until,
            timeout_s=max(0.0, deadline - anyio.current_time()),
            listeners=Listeners(
                on_change=_report_changes(found.tasks, report, note),
                on_paused=lambda agent, paused: report(f"every worker of {agent} is {short(paused.in_words)}"),
                on_question=lambda question: told.is_new(coordinator.agent, question),
            ),
        )
    tasks = {task.name: task for task in (*waited.pending.values(), *waited.settled.values())}
    errors = {**found.errors, **waited.unreadable}
    beside = await look_up(coordinator, request.beside) if request.beside and waited.current else None
    shown = [*(tasks[task.name] for task in found.tasks), *(beside.tasks if beside else ())]
    current = FoundTasks(shown, errors)
    told.note(coordinator.agent, (question for task in waited.pending.values() for question in asked_by(task)))
    return await outcome_of(coordinator, current, stale=not waited.current)


async def outcome_of(
    coordinator: Coordinator, found: FoundTasks, *, stale: bool = False, part: OutputPart | None = None
) -> TasksOutcome:
    """Tell settled tasks from pending ones, link the traces of the settled, and read what an answer needs beside them.

    That is the status of the agents of queued tasks, and the beginnings of outputs that are not UTF-8.

    Args:
        stale: the bus is away, and nothing is read.
        part: the part to show of the output, where one task is settled.
    """
    settled = [task for task in found.tasks if task.settled]
    pending = [task for task in found.tasks if not task.settled]
    for task in settled:
        tracing.link(task.record.headers)
    if stale:
        return TasksOutcome(settled, pending, found.errors, stale=True)
    queued = any(task.state == "queued" for task in pending)
    outputs = await beginnings(coordinator, settled) if part is None else {task.record.key: part for task in settled}
    agents = await agents_status(coordinator) if queued else None
    progress = await _progress_of(coordinator, pending)
    return TasksOutcome(settled, pending, found.errors, agents, outputs=outputs, progress=progress)


async def _progress_of(coordinator: Coordinator, pending: Sequence[TaskStatus]) -> dict[TaskKey, ProgressMessage]:
    return await last_of_each(coordinator.bus, [task.record.key for task in pending if task.state == "working"])


def _report_changes(
    tasks: Sequence[TaskStatus], report: Callable[[str], None], note: Callable[[TaskStatus], None]
) -> Callable[[TaskStatus], None]:
    """Report the states of tasks, now and at each change of a state; lease renewals are no change."""
    states = {task.name: task.state for task in tasks}

    def summary() -> str:
        names = ("queued", "working", "completed", "failed", "needs_approval", "cancelled")
        counts = {name: sum(state == name for state in states.values()) for name in names}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)

    def on_change(task: TaskStatus) -> None:
        note(task)
        if states[task.name] != task.state:
            states[task.name] = task.state
            report(f"{task.task_id}: {task.state} ({summary()})")

    if not all(task.settled for task in tasks):
        report(summary())
    return on_change
