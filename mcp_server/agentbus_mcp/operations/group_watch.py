"""Watches the tasks of a group: those that are open, and of the settled ones the newest."""

from collections import Counter
from dataclasses import replace
from typing import Final

from agentbus.coordinator import Coordinator
from agentbus.errors import TaskNotFoundError
from agentbus_mcp.operations.watch import WatchRequest

MOST_RESULTS: Final = 32
"""Of a group, in one answer: as many as tasks can be named in a call."""


async def watch_of_group(coordinator: Coordinator, request: WatchRequest, group: str) -> WatchRequest:
    """Return the request for the tasks that a group has now.

    Those that are waited for are the open ones. Of the settled ones the newest are shown as well, and end no wait.

    Raises:
        TaskNotFoundError: the group has no tasks.
        BusError: the ledger cannot be read.
    """
    tasks = await coordinator.group_tasks(group)
    if not tasks:
        raise TaskNotFoundError(f"the bus knows no task of the group {group}")
    pending = [status for status in tasks if not status.settled]
    settled = [status for status in tasks if status.settled]
    others = Counter(status.state for status in settled[MOST_RESULTS:])
    open_ones, shown = [[str(one.name) for one in some] for some in (pending, settled[:MOST_RESULTS])]
    first, beside = (open_ones, shown) if open_ones else (shown, ())
    return replace(request, task_ids=first, beside=beside, group=group, others=dict(others))
