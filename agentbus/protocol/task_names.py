"""Names of tasks: the agent and the id, as `code/job-1`. Another agent may have a task of the same id."""

from typing import Final, NamedTuple

from agentbus.errors import InvalidIdError
from agentbus.protocol import subjects

_SEPARATOR: Final = "/"


class TaskName(NamedTuple):
    """A task by its id, and the agent that it was sent to; None where only the id is known."""

    task_id: str
    agent: str | None = None

    def __str__(self) -> str:
        return self.task_id if self.agent is None else f"{self.agent}{_SEPARATOR}{self.task_id}"

    def matches(self, task: "TaskName") -> bool:
        """Whether this may name `task`, whose agent is known: a name without an agent is that of all with its id."""
        return self.task_id == task.task_id and self.agent in (None, task.agent)

    def of(self, agent: str | None) -> "TaskName":
        """Return the name with the agent that a caller gave beside it.

        Raises:
            InvalidIdError: it is not an agent id, or the name has another agent.
        """
        if agent is None:
            return self
        wanted = subjects.agent_id(agent)
        if self.agent not in (None, wanted):
            raise InvalidIdError(f"{self} is not a task of the agent {wanted}: leave out one of the two")
        return TaskName(self.task_id, wanted)


def task_name(text: str) -> TaskName:
    """Return the name in `text`, which is an id, or an agent and an id.

    Raises:
        InvalidIdError: an id in it is not valid.
    """
    agent, separator, task_id = text.rpartition(_SEPARATOR)
    return TaskName(subjects.task_id(task_id), subjects.agent_id(agent) if separator else None)


def is_task_name(text: str) -> bool:
    """Whether `task_name(text)` would succeed."""
    try:
        task_name(text)
    except InvalidIdError:
        return False
    return True
