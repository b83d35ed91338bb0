"""The ids of questions: a task's name, `#`, the beginning of a claim's nonce, a number, as `code/job-1#1a2b3c4d-1`.

A task that has ended as `needs_approval` is a question itself: its id is the name of the task.
"""

import re
from typing import Final, NamedTuple

from agentbus.errors import InvalidIdError
from agentbus.protocol.questions.question import Question
from agentbus.protocol.task_names import TaskName, task_name

_SEPARATOR: Final = "#"
"""It stands in no id of a task or an agent, and no shell takes it for a comment in the midst of a word."""
_NONCE_CHARS: Final = 8
_PART: Final = re.compile(r"([A-Za-z0-9_-]{1,8})-([1-9][0-9]{0,9})")


class QuestionPart(NamedTuple):
    """Which question of a task: the beginning of the nonce of its claim, and its number."""

    nonce: str
    number: int

    def __str__(self) -> str:
        return f"{self.nonce}-{self.number}"

    def names(self, question: Question) -> bool:
        """Whether this is the one."""
        return self == part_of(question)


class QuestionId(NamedTuple):
    """A question by its task, and which one of it that is: None for a task that has ended as `needs_approval`."""

    task: TaskName
    part: QuestionPart | None = None

    def __str__(self) -> str:
        return str(self.task) if self.part is None else f"{self.task}{_SEPARATOR}{self.part}"


def part_of(question: Question) -> QuestionPart:
    """Return what names a question within its task."""
    return QuestionPart(question.nonce[:_NONCE_CHARS], question.number)


def question_id(task: TaskName, question: Question | None = None) -> str:
    """Return the id of a question of a task; without one, that of a task that has ended as `needs_approval`."""
    return str(QuestionId(task, None if question is None else part_of(question)))


def parse_question_part(text: object) -> QuestionPart | None:
    """Read what stands behind the `#`, and in control messages; None if it is no such thing."""
    match = _PART.fullmatch(text) if isinstance(text, str) else None
    return QuestionPart(match[1], int(match[2])) if match else None


def parse_question_id(text: str) -> QuestionId:
    """Read the id of a question.

    Raises:
        InvalidIdError: it is none.
    """
    name, separator, rest = text.partition(_SEPARATOR)
    part = parse_question_part(rest)
    if separator and part is None:
        raise InvalidIdError(
            f"{rest[:80]!r} names no question: it is the beginning of a claim's nonce and a number, as 1a2b3c4d-1"
        )
    return QuestionId(task_name(name), part)
