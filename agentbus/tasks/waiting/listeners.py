"""What is called while a wait goes on: for changes, paused agents, and questions to a person."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from agentbus.tasks.presence import PausedWorker
from agentbus.tasks.questions.asked import AskedQuestion
from agentbus.tasks.status import TaskStatus

OnChange: TypeAlias = Callable[[TaskStatus], None]
OnPaused: TypeAlias = Callable[[str, PausedWorker], None]
OnQuestion: TypeAlias = Callable[[AskedQuestion], bool | None]


@dataclass(frozen=True, slots=True)
class Listeners:
    """What the party that waits wants to hear of.

    Attributes:
        on_change: called with the new state of a task whose entry has changed.
        on_paused: called once for each agent of a queued task of which all living workers are paused. Without it none
            is looked for.
        on_question: called once with each question of a task that waits for a person, also with those that are open
            already. If it returns True, the wait is over.
    """

    on_change: OnChange | None = None
    on_paused: OnPaused | None = None
    on_question: OnQuestion | None = None
