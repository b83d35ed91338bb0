"""Looks up tasks by their ids, in the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import AgentBusError, CorruptEntryError, InvalidIdError, TaskNotFoundError
from agentbus.task_handle import TaskFailure, TaskHandle
from agentbus.tasks.approvals import answer_id


@dataclass(frozen=True, slots=True)
class FoundTasks:
    """The tasks of some ids, in the order of the ids, and the errors of the ids that could not be looked up."""

    tasks: list[TaskStatus]
    errors: dict[str, AgentBusError]


async def look_up(
    coordinator: Coordinator,
    task_ids: Sequence[str],
    agent: str | None = None,
    *,
    timeout_s: float = 0,
) -> FoundTasks:
    """Read the present state of tasks.

    Args:
        task_ids: the ids, or the names with the agents.
        agent: the agent of the tasks whose ids do not name theirs; None finds it.
        timeout_s: how long a connection that breaks meanwhile may take to come back.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
        BusError: the ledger cannot be read.
    """
    return found_of(await coordinator.statuses(dict.fromkeys(task_ids), agent=agent, timeout_s=timeout_s))


def answer_to(coordinator: Coordinator, task: TaskStatus) -> TaskHandle:
    """Return the task that answers what a task asks for, if there is one: its owner is who answered."""
    owner = task.record.entry.answered_by or task.owner
    return coordinator.task(answer_id(task.task_id), agent=task.agent, owner=owner)


def found_of(outcomes: Sequence[TaskStatus | TaskFailure]) -> FoundTasks:
    """Sort outcomes into the tasks that are known and the errors of the ids that are not.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
        AgentBusError: the first error that does not concern one id alone.
    """
    tasks = {one.name: one for one in outcomes if isinstance(one, TaskStatus)}  # an id and a name may be the same task
    errors: dict[str, AgentBusError] = {}
    for one in outcomes:
        if isinstance(one, TaskFailure):
            if not isinstance(one.error, TaskNotFoundError | InvalidIdError | CorruptEntryError):
                raise one.error
            errors[one.id] = one.error
    if not tasks:
        raise TaskNotFoundError("; ".join(str(error) for error in errors.values()))
    return FoundTasks(list(tasks.values()), errors)
