"""How far a reader has got with the events of a coordinator's tasks: kept in a file, it goes on where it was.

The time says from when on changes are read. Reading begins a minute earlier, because several streams have no common
order; the ids of what was told keep each event from being told twice.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agentbus.config.private_files import private_folder, write_private
from agentbus.errors import ConfigError
from agentbus.tasks.events.task_event import TaskEvent

OVERLAP: Final = timedelta(minutes=1)
"""How far the clocks and answers of the servers of a cluster may be apart."""
_MOST_TOLD: Final = 5_000
"""How many ids are kept: of a day with three events a minute. A question is seen again as long as it is open."""
_MAX_FILE_BYTES: Final = 4 * 2**20

_Id = Annotated[str, StringConstraints(min_length=1, max_length=600)]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore")

    at: AwareDatetime
    began: AwareDatetime | None = None
    told: Annotated[list[_Id], Field(max_length=_MOST_TOLD)] = []


@dataclass
class Position:
    """A position among the events of one coordinator.

    Attributes:
        at: the time of the last change that was read, by the server's clock; None before the first.
        began: when the first reader began; what happened before is never told.
    """

    at: datetime | None = None
    began: datetime | None = None
    _told: dict[str, None] = field(default_factory=dict[str, None])

    @property
    def since(self) -> datetime | None:
        """From when on changes are to be read."""
        since = self.at - OVERLAP if self.at is not None else None
        return max(since, self.began) if since is not None and self.began is not None else since

    def begin(self, now: datetime) -> None:
        """Begin at this time, by the server's clock."""
        self.at = self.began = now

    def reach(self, at: datetime) -> None:
        """Note that all that has changed until this time was read."""
        self.at = at if self.at is None else max(self.at, at)

    def has_told(self, event: TaskEvent) -> bool:
        """Whether an event was told; a look at it keeps it in memory."""
        if event.id not in self._told:
            return False
        self._told[event.id] = self._told.pop(event.id)
        return True

    def tell(self, event: TaskEvent) -> None:
        """Note that an event was told."""
        self._told[event.id] = None
        while len(self._told) > _MOST_TOLD:
            del self._told[next(iter(self._told))]

    def forget(self, event_ids: Iterable[str]) -> None:
        """Let events be told again which may happen again: a worker that is lost a second time, another pause."""
        for event_id in event_ids:
            self._told.pop(event_id, None)

    def without(self, events: Iterable[TaskEvent]) -> "Position":
        """Return the position of a reader that has not told these events yet."""
        left = {event.id for event in events}
        return Position(self.at, self.began, {one: None for one in self._told if one not in left})

    def to_json(self) -> dict[str, Any]:
        """Return what `position_of` reads."""
        began = {"began": self.began.isoformat()} if self.began is not None else {}
        return {"at": (self.at or datetime.now(UTC)).isoformat(), **began, "told": list(self._told)}


def position_of(stored: object) -> Position:
    """Return the position that `Position.to_json` has described.

    Raises:
        ValueError: it is none.
    """
    try:
        found = _Stored.model_validate(stored)
    except ValidationError:
        raise ValueError("is no position among events") from None
    return Position(found.at, found.began, dict.fromkeys(found.told))


def read_position(file: Path) -> Position | None:
    """Read the position in a file; None where there is no file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_FILE_BYTES + 1)
        return position_of(json.loads(data))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{file} holds no position among events; remove it, and reading begins now") from None


def write_position(file: Path, position: Position) -> None:
    """Replace the position in a file, which only its user may read.

    Raises:
        ConfigError: it cannot be written.
    """
    private_folder(file.parent)
    write_private(file, json.dumps(position.to_json()), replace=True)
