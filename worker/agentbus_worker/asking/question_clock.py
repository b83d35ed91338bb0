"""Counts the time in which a question of a run was open: a person needs it, and no limit of the run."""

from collections.abc import Callable
from typing import Final

from agentbus_worker.formats.events import Event, Question, QuestionEnd

MOST_S: Final = 6 * 86_400.0
"""How much of it is not counted in one run: the stream of tasks keeps a message for seven days."""


class QuestionClock:
    """Follows the events of one run.

    Args:
        time: the clock, in seconds.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._open: set[str] = set()
        self._since = 0.0
        self._before = 0.0
        self._last_open = 0.0

    def on_event(self, event: Event) -> None:
        """Take an event, when it has come."""
        if isinstance(event, Question) and event.id:  # of another no end is told
            if not self._open:
                self._since = self._time()
            self._open.add(event.id)
        elif isinstance(event, QuestionEnd) and event.id in self._open:
            self._open.discard(event.id)
            if not self._open:
                self._last_open = self._time()
                self._before += self._last_open - self._since

    @property
    def stood_s(self) -> float:
        """For how long questions were open up to now."""
        return min(MOST_S, self._before + (self._time() - self._since if self._open else 0.0))

    @property
    def last_open(self) -> float:
        """When the last question was open: now, if one is; 0 if there was none."""
        return self._time() if self._open and self.stood_s < MOST_S else self._last_open
