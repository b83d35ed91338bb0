"""The tasks that go on with the conversation of a task: found among those of its agent that changed later.

An entry names the task before it, and nothing names the one after it. So this looks at what has changed since, for a
short time: a list of the conversation begins with what is known, and says whether there may be more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.listing.task_list import MAX_LISTED, list_tasks
from agentbus.tasks.listing.wanted import Wanted
from agentbus.tasks.status import TaskStatus

SEARCH_S: Final = 0.3
"""A page that shows the task waits for it."""
_CLOCKS: Final = timedelta(seconds=30)
"""How far the clock of a worker may be ahead of the server's."""


@dataclass(frozen=True, slots=True)
class Continued:
    """The tasks behind one in its conversation, and whether all that changed since were looked at.

    Attributes:
        tasks: in the order in which they were published, without results.
        whole: whether there are no more. One that was published before its forerunner was settled, and has not been
            taken since, may be missing all the same.
    """

    tasks: list[TaskStatus]
    whole: bool


@dataclass(frozen=True, slots=True)
class _Continuing(Wanted):
    """The tasks that go on with another one."""

    @property
    def is_search(self) -> bool:
        return True

    def is_met_by(self, found: TaskStatus) -> bool:
        return found.record.entry.continues is not None and Wanted.is_met_by(self, found)


async def continued(bus: Bus, status: TaskStatus, *, owner: str | None = None, search_s: float = SEARCH_S) -> Continued:
    """Find the tasks that go on with a settled one, and with those.

    Args:
        owner: only tasks of this coordinator, for a member, which sees no others.

    Raises:
        SetupMissingError, PermissionDeniedError: see `list_tasks`.
    """
    wanted = _Continuing(status.agent, owner, asker=status.asker, with_results=False)
    found = await list_tasks(bus, wanted, limit=MAX_LISTED, search_s=search_s, since=_settled_at(status))
    return Continued(_behind(status.record.key, found.tasks), whole=found.cursor is None and not found.partial)


def _settled_at(status: TaskStatus) -> datetime:
    """Return when a task was settled, at the latest: its entry may have changed since, as when it was answered."""
    changed = status.record.changed_at
    try:
        said = datetime.fromisoformat(status.record.entry.settled_at or "")
        return min(changed, said - _CLOCKS)
    except (ValueError, TypeError, OverflowError):
        return changed


def _behind(key: TaskKey, tasks: Sequence[TaskStatus]) -> list[TaskStatus]:
    """Return the tasks whose conversation leads back to one, by the time of their publication."""
    after: dict[TaskKey, list[TaskStatus]] = {}
    for one in tasks:
        if (said := one.record.entry.continues) is not None:
            after.setdefault(said.earlier(one.agent), []).append(one)
    found: dict[TaskKey, TaskStatus] = {}
    reached = [key]
    while reached:
        for one in after.pop(reached.pop(), ()):
            if one.record.key not in found and one.record.key != key:
                found[one.record.key] = one
                reached.append(one.record.key)
    return sorted(found.values(), key=lambda one: one.record.entry.created_at or "")
