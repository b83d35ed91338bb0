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

    Those that are waited for are the open ones. Of the settled ones the newest are read as well, but where any result
    ends the wait: then it would end at once.

    Raises:
        TaskNotFoundError: the group has no tasks.
        BusError: the ledger cannot be read.
    """
    tasks = await coordinator.group_tasks(group)
    if not tasks:
        raise TaskNotFoundError(f"the bus knows no task of the group {group}")
    pending = [status for status in tasks if not status.settled]
    settled = [status for status in tasks if status.settled]
    shown = [] if pending and request.until == "any" else settled[:MOST_RESULTS]
    others = Counter(status.state for status in settled[len(shown) :])
    names = [str(status.name) for status in (*pending, *shown)]
    return replace(request, task_ids=names, group=group, others=dict(others))
