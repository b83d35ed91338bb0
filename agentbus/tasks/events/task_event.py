"""One event of a coordinator's tasks: what has happened to which task, and how it is told in one safe line or as JSON.

Nothing that an agent has written stands in it: ids that were checked, and words of fixed lists.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args

from agentbus.protocol.json_codec import Json
from agentbus.protocol.outcomes.failure_codes import FAILURE_CODES
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.task_names import name_for

Kind = Literal["settled", "asks", "lost", "paused"]
"""`settled`: it has its result. `asks`: it waits for a person. `lost`: its worker is gone, and the task waits for
another one. `paused`: all living workers of an agent for which tasks are queued are paused."""
Topic = Literal["settled", "failed", "asks", "lost"]
"""What a person chooses events by."""
TOPICS: Final[tuple[Topic, ...]] = get_args(Topic)

_CODE: Final = re.compile(r"[a-z][a-z_]{0,31}")


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One event.

    Attributes:
        owner: the coordinator whose tasks these are.
        agent: the agent that the task was sent to, or that is paused.
        task: None where the event is of an agent.
        status: the state of the task: completed, failed, cancelled, needs_approval, working or queued.
        at: when it happened, by the server's clock.
        code: of a failed task, or of a pause: why, as one of the words that agentbus has for that.
        part: tells apart the events of one kind of a task: the id of a question, the number of an attempt.
        waiting: of a pause: how many tasks of the owner wait for the agent.
    """

    kind: Kind
    owner: str
    agent: str
    task: TaskKey | None
    status: str
    at: datetime
    code: str | None = None
    part: str = ""
    waiting: int = 0

    @property
    def id(self) -> str:
        """The name of the event. It stays the same when an event is told again, so that a reader can drop it."""
        of = f"{self.agent}:{self.task.id}" if self.task is not None else f"{self.agent}:"
        return ":".join(filter(None, [self.kind, self.owner, of, self.part]))

    @property
    def name(self) -> str | None:
        """The task as commands and tools take it, from its owner."""
        return str(name_for(self.owner, self.task)) if self.task is not None else None

    def is_of(self, topics: Iterable[str]) -> bool:
        """Whether it is one of these topics. `settled` are all results but requests for an approval."""
        mine = {"paused": "lost"}.get(self.kind, self.kind)
        return any(topic == mine or (topic == "failed" and self.status == "failed") for topic in topics)

    @property
    def text(self) -> str:
        """The event in one line of at most 300 printable ASCII characters."""
        why = f" ({self.code})" if self.code else ""
        if self.task is None:
            tasks = "1 task waits" if self.waiting == 1 else f"{self.waiting} tasks wait"
            return f"agent {self.agent} is paused{why}; {tasks} for it"
        said = {
            "settled": f"{self.status}{why}",
            "asks": "asks for an approval" if self.status == "needs_approval" else "asks a question",
        }.get(self.kind, "has lost its worker and waits for another one")
        return f"task {self.task.id} of agent {self.agent} {said}"

    @property
    def line(self) -> str:
        """The text with the name of the product before it."""
        return f"agentbus: {self.text}"

    def to_json(self) -> dict[str, Json]:
        """Return a plain object; what does not apply is left out."""
        account: dict[str, Json] = {
            "id": self.id,
            "event": self.kind,
            "coordinator": self.owner,
            "agent": self.agent,
            "task_id": self.task.id if self.task else None,
            "task": self.name,
            "status": self.status,
            "code": self.code,
            "question": (self.part or None) if self.kind == "asks" else None,
            "waiting": self.waiting or None,
            "at": self.at.isoformat(),
            "text": self.text,
        }
        return {key: value for key, value in account.items() if value is not None}


def failure_word(code: object) -> str | None:
    """Return the code of a failure if this version knows it: an agent's machine has written it."""
    return code if isinstance(code, str) and code in FAILURE_CODES else None


def pause_word(code: str) -> str | None:
    """Return the code of a pause if it has the form of one; a worker has written it."""
    return code if _CODE.fullmatch(code) is not None else None


def topics_of(names: str) -> tuple[Topic, ...]:
    """Return the topics in a list as `settled,asks`.

    Raises:
        ValueError: one is none.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in TOPICS]
    if unknown or not wanted:
        what = repr(unknown[0]) if unknown else "nothing"
        raise ValueError(f"names {what}; topics are {', '.join(TOPICS)}")
    return tuple(topic for topic in TOPICS if topic in wanted)
