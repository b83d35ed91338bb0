"""What a follower of events knows of the coordinator's tasks that are not settled: when each was seen alive last."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final

from agentbus.protocol.subjects import TaskKey

_MOST: Final = 10_000
"""How many open tasks are looked after; of more, those that changed last."""
_AGAIN_S: Final = 30.0
"""How often the questions of one task are read while their number stays the same."""


class OpenTasks:
    """The open tasks, as the changes of the ledger have shown them. Times are those of the event loop."""

    def __init__(self) -> None:
        self._working: dict[TaskKey, float] = {}
        self._queued: dict[TaskKey, float] = {}
        self._asking: dict[TaskKey, tuple[str, float]] = {}

    def is_working(self, key: TaskKey) -> None:
        """Note that a worker has just renewed its claim of a task, or taken it."""
        self._queued.pop(key, None)
        self._working.pop(key, None)
        self._working[key] = _now()
        _bound(self._working)

    def is_queued(self, key: TaskKey) -> None:
        """Note that a task waits for a worker."""
        self._working.pop(key, None)
        self._queued.pop(key, None)
        self._queued[key] = _now()
        _bound(self._queued)

    def is_over(self, key: TaskKey) -> None:
        """Forget a task that is settled, or gone."""
        for known in (self._working, self._queued, self._asking):
            known.pop(key, None)

    def has_news(self, key: TaskKey, questions: str) -> bool:
        """Whether the questions of a task have to be read, by the header that sums them up."""
        if not questions:
            self._asking.pop(key, None)
            return False
        before, at = self._asking.get(key, ("", 0.0))
        if before == questions and _now() - at < _AGAIN_S:
            return False
        self._asking[key] = (questions, _now())
        _bound(self._asking)
        return True

    def silent(self, for_s: float, most: int) -> list[TaskKey]:
        """Return tasks whose workers were not heard of for so long, the longest silent first."""
        before = _now() - for_s
        return [key for key, at in self._working.items() if at < before][:most]

    def queued(self, most: int) -> list[TaskKey]:
        """Return queued tasks, and move them behind the others, so that each has its turn."""
        turn = list(self._queued)[:most]
        for key in turn:
            self._queued[key] = self._queued.pop(key)
        return turn

    def waiting_for(self) -> Counter[str]:
        """Return how many tasks wait for each agent."""
        return Counter(key.agent for key in self._queued)

    def know(self, working: Iterable[TaskKey], queued: Iterable[TaskKey]) -> None:
        """Add tasks that were open before the first change was read."""
        for known, keys in ((self._working, working), (self._queued, queued)):
            for key in keys:
                if key not in self._working and key not in self._queued:
                    known[key] = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _bound(known: dict[TaskKey, float] | dict[TaskKey, tuple[str, float]]) -> None:
    while len(known) > _MOST:
        del known[next(iter(known))]
