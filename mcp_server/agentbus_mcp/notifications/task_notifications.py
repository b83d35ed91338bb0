"""`notifications/tasks` on a listen stream: the state of an MCP task, whenever it has changed (SEP-2663)."""

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
        """The `DetailedTask`, as `tasks/get` has it."""
        ...


class TaskNotification(BaseModel):
    """`notifications/tasks`."""

    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: dict[str, Any]


def requested_task_ids(requested: SubscriptionFilter) -> list[str]:
    """The `taskIds` of a filter, which the SDK knows as an extra field only. Anything but a list counts as none."""
    found: Any = (requested.model_extra or {}).get("taskIds")
    return [str(task_id) for task_id in cast("list[Any]", found)] if isinstance(found, list) else []


class TaskNotifications:
    """Makes the notifications of one stream; a state that was sent last is not sent again."""

    def __init__(self, tasks: McpTaskChanges, meta: dict[str, Any]) -> None:
        self._tasks = tasks
        self._meta = meta
        self._sent: dict[str, dict[str, Any]] = {}

    async def of(self, task_id: str) -> ServerNotification | None:
        """The notification of a task's present state; None if it was sent already or cannot be read now."""
        try:
            task = await self._tasks.get(task_id)
        except MCPError:
            return None  # the next change is sent
        state = {name: value for name, value in task.items() if name != "lastUpdatedAt"}
        if self._sent.get(task_id) == state:
            return None
        self._sent[task_id] = state
        # The SDK's union of notifications is that of the core protocol.
        return cast("ServerNotification", TaskNotification(params={**task, "_meta": self._meta}))
