"""Tells the events of one session of a host, and holds each back until it is known whose it is and what was seen."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import anyio

from agentbus.errors import ConfigError
from agentbus.notify.session_tasks import SessionTasks
from agentbus.tasks.events.position import Position, read_position, write_position
from agentbus.tasks.events.task_event import TaskEvent

_LOOK_S: Final = 0.5
_HELD_S: Final = 3.0
"""How long an event is held back: a call that waits for the same task answers meanwhile, and then it is no news."""
_NOT_OURS_S: Final = 15.0
"""After how long a task is known to be that of another session: a server notes it right after it was published."""
_AT_ONCE: Final = 10
"""How many events are told at once, after an absence; the others are counted in one line."""
_MOST_HELD: Final = 10_000
_BEFORE: Final = timedelta(minutes=10)
"""How far the clock of the server may be behind that of this machine."""
_OLDEST: Final = timedelta(days=1)
"""A session that goes on after a longer time is told of what happens from then on."""


@dataclass
class SessionEvents:
    """The events of one session.

    Attributes:
        tell: called with each line; it must not block for long.
    """

    tasks: SessionTasks
    tell: Callable[[str], None]
    position: Position = field(default_factory=Position)
    _held: list[tuple[float, TaskEvent]] = field(default_factory=list[tuple[float, TaskEvent]])

    def begin(self) -> None:
        """Find where to begin: behind what was told, else where the session has begun, else now."""
        self.tasks.look()
        try:
            found = read_position(self._file)
        except ConfigError:
            found = None
        if found is not None:
            self.position = found
        elif self.tasks.began is not None:
            since = max(self.tasks.began - _BEFORE, datetime.now(UTC) - _OLDEST)
            self.position = Position(since, since)

    async def take(self, event: TaskEvent) -> None:
        """Take an event of the coordinator, of whichever session."""
        if len(self._held) < _MOST_HELD:
            self._held.append((_now(), event))

    async def run(self) -> None:
        """Tell what is due, until the host of the session is gone."""
        looks = 0
        while looks % 10 or self.tasks.session.lives:
            looks += 1
            await anyio.sleep(_LOOK_S)
            if self._held:
                self.tasks.look()
                self._tell_due()

    def _tell_due(self) -> None:
        due: list[TaskEvent] = []
        held, self._held = self._held, []
        for since, event in held:
            ours = self._is_ours(event)
            if _now() - since < (_HELD_S if ours else _NOT_OURS_S):
                self._held.append((since, event))
            elif ours and not self._is_seen(event):
                due.append(event)
        for event in due[:_AT_ONCE]:
            self.tell(f"{event.line}; {_what_next(event)}")
        if len(due) > _AT_ONCE:
            self.tell(f"agentbus: {len(due) - _AT_ONCE} more events of tasks of this session; see list_tasks")
        if due or not self._held:
            write_position(self._file, self.position.without(event for _, event in self._held))

    def _is_seen(self, event: TaskEvent) -> bool:
        return event.kind == "settled" and event.task is not None and self.tasks.is_seen(event.task)

    def _is_ours(self, event: TaskEvent) -> bool:
        return event.task in self.tasks if event.task is not None else event.agent in self.tasks.agents

    @property
    def _file(self) -> Path:
        session = self.tasks.session
        name = hashlib.sha256((session.id or session.process).encode()).hexdigest()[:16]
        return self.tasks.folder / f"{name}.position"


def _what_next(event: TaskEvent) -> str:
    """Say what a model does with an event, in words of our own."""
    if event.kind == "settled":
        return "get_results reads its result"
    if event.kind == "asks":
        return "list_questions shows what it asks; the user decides"
    return "list_agents shows its workers"


def _now() -> float:
    return asyncio.get_running_loop().time()
