"""agentbus: hand tasks to agents on other machines and get every result back, over NATS JetStream.

The names below are the public API for programs; they are loaded on first use, so that importing the package is free.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentbus.version import __version__

if TYPE_CHECKING:
    from agentbus.agent_overview import AgentOverview
    from agentbus.coordinator import Coordinator, connect
    from agentbus.coordinator_questions import AnsweredQuestion
    from agentbus.errors import AgentBusError
    from agentbus.many_tasks import NewTask
    from agentbus.protocol.messages import Result, Task
    from agentbus.protocol.progress.events import RunEvent
    from agentbus.task_handle import PublishedTask, TaskFailure, TaskHandle
    from agentbus.tasks.inbox import Inbox, InboxMessage
    from agentbus.tasks.listing.spending import Spending, Spent
    from agentbus.tasks.listing.task_list import TaskList
    from agentbus.tasks.presence import Presence
    from agentbus.tasks.questions.asked import AskedQuestion, QuestionList
    from agentbus.tasks.status import TaskStatus, Waited

__all__ = [
    "AgentBusError",
    "AgentOverview",
    "AnsweredQuestion",
    "AskedQuestion",
    "Coordinator",
    "Inbox",
    "InboxMessage",
    "NewTask",
    "Presence",
    "PublishedTask",
    "QuestionList",
    "Result",
    "RunEvent",
    "Spending",
    "Spent",
    "Task",
    "TaskFailure",
    "TaskHandle",
    "TaskList",
    "TaskStatus",
    "Waited",
    "__version__",
    "connect",
]

_HOME = {
    "AgentBusError": "agentbus.errors",
    "AgentOverview": "agentbus.agent_overview",
    "AnsweredQuestion": "agentbus.coordinator_questions",
    "AskedQuestion": "agentbus.tasks.questions.asked",
    "Coordinator": "agentbus.coordinator",
    "Inbox": "agentbus.tasks.inbox",
    "InboxMessage": "agentbus.tasks.inbox",
    "NewTask": "agentbus.many_tasks",
    "Presence": "agentbus.tasks.presence",
    "PublishedTask": "agentbus.task_handle",
    "QuestionList": "agentbus.tasks.questions.asked",
    "Result": "agentbus.protocol.messages",
    "RunEvent": "agentbus.protocol.progress.events",
    "Spending": "agentbus.tasks.listing.spending",
    "Spent": "agentbus.tasks.listing.spending",
    "Task": "agentbus.protocol.messages",
    "TaskFailure": "agentbus.task_handle",
    "TaskHandle": "agentbus.task_handle",
    "TaskList": "agentbus.tasks.listing.task_list",
    "TaskStatus": "agentbus.tasks.status",
    "Waited": "agentbus.tasks.status",
    "connect": "agentbus.coordinator",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'agentbus' has no attribute {name!r}")
