"""Cancels several tasks."""

from collections.abc import Sequence

from agentbus.coordinator import Coordinator
from agentbus_mcp.operations.look_up import FoundTasks, found_of


async def cancel_all(
    coordinator: Coordinator, task_ids: Sequence[str], *, agent: str | None = None, reason: str = ""
) -> FoundTasks:
    """Request the cancellation of tasks concurrently.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
    """
    return found_of(await coordinator.cancel_all(dict.fromkeys(task_ids), agent=agent, reason=reason))
