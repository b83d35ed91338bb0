"""Cancels several tasks."""

from collections.abc import Sequence

import anyio

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import AgentBusError, CorruptEntryError, InvalidIdError, TaskNotFoundError
from agentbus_mcp.operations.look_up import FoundTasks, in_order


async def cancel_all(
    coordinator: Coordinator, task_ids: Sequence[str], *, agent: str | None = None, reason: str = ""
) -> FoundTasks:
    """Request the cancellation of tasks concurrently.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
    """
    tasks: dict[str, TaskStatus] = {}
    errors: dict[str, AgentBusError] = {}

    async def cancel(task_id: str) -> None:
        try:
            tasks[task_id] = await coordinator.cancel(task_id, agent=agent, reason=reason)
        except (TaskNotFoundError, InvalidIdError, CorruptEntryError) as error:
            errors[task_id] = error

    async with anyio.create_task_group() as group:
        for task_id in dict.fromkeys(task_ids):
            group.start_soon(cancel, task_id)
    return in_order(task_ids, tasks, errors)
