"""Which questions of runs a client was told while it waited: a new one ends a wait, and one that it knows does not."""

from collections.abc import Iterable
from typing import Final

from agentbus.tasks.questions.asked import AskedQuestion

_MOST: Final = 1_000
"""More than may be open at a time on most buses. One that is forgotten is told once more."""


class ToldQuestions:
    """The questions that answers of one server have shown, by the coordinator that was told, the newest last."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], None] = {}

    def is_new(self, coordinator: str, question: AskedQuestion) -> bool:
        """Whether no answer has shown a question."""
        return (coordinator, question.id) not in self._told

    def note(self, coordinator: str, questions: Iterable[AskedQuestion]) -> None:
        """Note that an answer shows questions."""
        for question in questions:
            self._told[coordinator, question.id] = None
        while len(self._told) > _MOST:
            del self._told[next(iter(self._told))]
