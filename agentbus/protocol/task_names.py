"""Names of tasks: the agent and the id, as `code/job-1`; with an owner other than `main`, as `code/~alice/job-1`.

Another agent, or another owner, may have a task of the same id.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from agentbus.errors import InvalidIdError
from agentbus.protocol import subjects
from agentbus.protocol.subjects import COORDINATOR, TaskKey

_SEPARATOR: Final = "/"
_OWNER: Final = "~"


class TaskName(NamedTuple):
    """A task by its id, the agent that it was sent to and the coordinator that owns it; None where they are not known.

    A name without an owner is that of the coordinator who uses it.
    """

    task_id: str
    agent: str | None = None
    owner: str | None = None

    def __str__(self) -> str:
        if self.agent is None:
            return self.task_id
        whose = [f"{_OWNER}{self.owner}"] if self.owner is not None else []
        return _SEPARATOR.join([self.agent, *whose, self.task_id])

    def matches(self, task: "TaskName") -> bool:
        """Whether this may name `task`, of which all is known: what a name leaves out may be anything."""
        return self.task_id == task.task_id and self.agent in (None, task.agent) and self.owner in (None, task.owner)

    def of(self, agent: str | None, owner: str | None = None) -> "TaskName":
        """Return the name with the agent and the owner that a caller gave beside it.

        Raises:
            InvalidIdError: one is not an id, or the name has another one.
        """
        agent = subjects.agent_id(agent) if agent is not None else self.agent
        owner = subjects.agent_id(owner) if owner is not None else self.owner
        if self.agent not in (None, agent):
            raise InvalidIdError(f"{self} is not a task of the agent {agent}: leave out one of the two")
        if self.owner not in (None, owner):
            raise InvalidIdError(f"{self} is not a task of the coordinator {owner}: leave out one of the two")
        return TaskName(self.task_id, agent, owner)


def name_for(asker: str, task: TaskKey) -> TaskName:
    """Return the name by which a coordinator finds a task again, whatever other tasks have the same id.

    Its owner is left out only where `main` looks at its own: a name without one means a task of the asker first.
    """
    return TaskName(task.id, task.agent, None if task.owner == asker == COORDINATOR else task.owner)


def short_names(asker: str, tasks: Iterable[TaskKey]) -> dict[TaskKey, str]:
    """Return how a coordinator tells tasks apart: by their ids, and by their names where several have the same id."""
    every = list(tasks)
    times = Counter(task.id for task in every)
    return {task: task.id if times[task.id] == 1 else str(name_for(asker, task)) for task in every}


class TaskQuery(NamedTuple):
    """Which task is looked up: by its id and, where they are known, its agent and its owner.

    Attributes:
        owner: None looks for a task of `asker` first, then for one of any other owner.
        asker: the coordinator that looks.
    """

    id: str
    agent: str | None = None
    owner: str | None = None
    asker: str = COORDINATOR

    @property
    def name(self) -> TaskName:
        """What it says of the task, as a name."""
        return TaskName(self.id, self.agent, self.owner)


def task_name(text: str) -> TaskName:
    """Return the name in `text`, which is an id, or an agent and an id, with an owner between them or without.

    Raises:
        InvalidIdError: an id in it is not valid.
    """
    before, separator, task_id = text.rpartition(_SEPARATOR)
    agent, owned, owner = before.partition(f"{_SEPARATOR}{_OWNER}")
    return TaskName(
        subjects.task_id(task_id),
        subjects.agent_id(agent) if separator else None,
        subjects.agent_id(owner) if owned else None,
    )


def is_task_name(text: str) -> bool:
    """Whether `task_name(text)` would succeed."""
    try:
        task_name(text)
    except InvalidIdError:
        return False
    return True
