"""Sends `notifications/tasks` on a listen stream: the state of an MCP task, whenever it has changed (SEP-2663)."""

from collections.abc import Callable
from typing import Any, Final, Literal, Protocol, cast

from mcp.shared.exceptions import MCPError
from mcp_types import ServerNotification, SubscriptionFilter
from pydantic import BaseModel

from agentbus_mcp.notifications.bus_events import Unsubscribe

TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"


class McpTaskChanges(Protocol):
    """Publishes the change events of MCP tasks."""

    async def watch(self, task_id: str, changed: Callable[[], None]) -> Unsubscribe | None:
        """Call `changed` when an MCP task may have changed; None where there is no such task."""
        ...

    async def get(self, task_id: str) -> dict[str, Any]:
        """Return the `DetailedTask` that `tasks/get` returns."""
        ...


class TaskNotification(BaseModel):
    """`notifications/tasks`."""

    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: dict[str, Any]


def requested_task_ids(requested: SubscriptionFilter) -> list[str]:
    """Return the `taskIds` of a filter, an extra field for the SDK. Anything but a list counts as none."""
    found: Any = (requested.model_extra or {}).get("taskIds")
    return [str(task_id) for task_id in cast("list[Any]", found)] if isinstance(found, list) else []


class TaskNotifications:
    """Makes the notifications of one stream. A state that is equal to the last one sent is not sent again."""

    def __init__(self, tasks: McpTaskChanges, meta: dict[str, Any]) -> None:
        self._tasks = tasks
        self._meta = meta
        self._sent: dict[str, dict[str, Any]] = {}

    async def of(self, task_id: str) -> ServerNotification | None:
        """Return the notification of a task's present state; None if it was sent already or cannot be read now."""
        try:
            task = await self._tasks.get(task_id)
        except MCPError:
            return None  # the next change is sent again
        state = {name: value for name, value in task.items() if name != "lastUpdatedAt"}
        if self._sent.get(task_id) == state:
            return None
        self._sent[task_id] = state
        # The SDK's union type has only the notifications of the core protocol.
        return cast("ServerNotification", TaskNotification(params={**task, "_meta": self._meta}))
