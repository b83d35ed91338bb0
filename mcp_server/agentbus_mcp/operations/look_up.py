"""Looks up tasks by their ids, in the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import (
    AgentBusError,
    BusUnavailableError,
    CorruptEntryError,
    InvalidIdError,
    TaskNotFoundError,
)


@dataclass(frozen=True, slots=True)
class FoundTasks:
    """The tasks of some ids, in the order of the ids, and the errors of the ids that could not be looked up."""

    tasks: list[TaskStatus]
    errors: dict[str, AgentBusError]


async def look_up(
    coordinator: Coordinator,
    task_ids: Sequence[str],
    agent: str | Mapping[str, str] | None = None,
    *,
    timeout_s: float = 0,
) -> FoundTasks:
    """Read the present state of tasks.

    Args:
        agent: the agent of all tasks, or of each task id; None finds the agent of each.
        timeout_s: how long a connection that breaks meanwhile may take to come back.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
        BusError: the ledger cannot be read.
    """
    tasks: dict[str, TaskStatus] = {}
    errors: dict[str, AgentBusError] = {}
    deadline = anyio.current_time() + timeout_s

    async def find(task_id: str) -> None:
        of_agent = agent.get(task_id) if isinstance(agent, Mapping) else agent
        try:
            tasks[task_id] = await _read(coordinator, task_id, of_agent, deadline)
        except (TaskNotFoundError, InvalidIdError, CorruptEntryError) as error:
            errors[task_id] = error

    async with anyio.create_task_group() as group:
        for task_id in dict.fromkeys(task_ids):
            group.start_soon(find, task_id)
    return in_order(task_ids, tasks, errors)


def in_order(
    task_ids: Sequence[str], tasks: Mapping[str, TaskStatus], errors: Mapping[str, AgentBusError]
) -> FoundTasks:
    """Put tasks and errors into the order of their ids.

    Raises:
        TaskNotFoundError: there are errors only.
    """
    ids = dict.fromkeys(task_ids)
    if not tasks:
        raise TaskNotFoundError("; ".join(str(errors[task_id]) for task_id in ids))
    return FoundTasks(
        [tasks[task_id] for task_id in ids if task_id in tasks],
        {task_id: errors[task_id] for task_id in ids if task_id in errors},
    )


async def _read(coordinator: Coordinator, task_id: str, agent: str | None, deadline: float) -> TaskStatus:
    while True:
        try:
            return await coordinator.task(task_id, agent=agent)
        except BusUnavailableError:
            if anyio.current_time() >= deadline:
                raise
        with anyio.move_on_after(deadline - anyio.current_time()):
            await coordinator.bus.wait_connected()
