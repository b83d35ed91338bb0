"""agentbus: hand tasks to agents on other machines and get every result back, over NATS JetStream.

The names below are the public API for programs; they are loaded on first use, so that importing the package is free.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from agentbus.coordinator import Coordinator, connect
    from agentbus.errors import AgentBusError
    from agentbus.listing import TaskList
    from agentbus.messages import Result, Task
    from agentbus.results import Inbox, InboxMessage
    from agentbus.status import TaskStatus, Waited

__all__ = [
    "AgentBusError",
    "Coordinator",
    "Inbox",
    "InboxMessage",
    "Result",
    "Task",
    "TaskList",
    "TaskStatus",
    "Waited",
    "__version__",
    "connect",
]

_HOME = {
    "AgentBusError": "agentbus.errors",
    "Coordinator": "agentbus.coordinator",
    "Inbox": "agentbus.results",
    "InboxMessage": "agentbus.results",
    "Result": "agentbus.messages",
    "Task": "agentbus.messages",
    "TaskList": "agentbus.listing",
    "TaskStatus": "agentbus.status",
    "Waited": "agentbus.status",
    "connect": "agentbus.coordinator",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("agentbus-mcp")
        except PackageNotFoundError:
            return "0+unknown"
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'agentbus' has no attribute {name!r}")
