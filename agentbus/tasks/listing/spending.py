"""Sums up what settled tasks used and cost, by agent, model, day or sender, as their ledger entries say.

The figures are those that the agents report; this package knows no prices.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.ledger_parts import agent_ledgers
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.outcomes.run_report import Run
from agentbus.tasks.listing.task_list import SEARCH_S, Search, TaskList, Wanted
from agentbus.tasks.status import TaskStatus

Grouping: TypeAlias = Literal["agent", "model", "day", "sender"]
UNKNOWN_MODEL: Final = "unknown"
"""The group of tasks whose agent does not name its model."""
OTHERS: Final = "(others)"
"""The group of what comes after `MOST_GROUPS`: models and senders are named by others, who may name any number."""
MOST_GROUPS: Final = 1_000
_FIRST: Final = 500
"""How many entries are looked at first, at least."""

GROUPINGS: Final[dict[Grouping, Callable[[TaskStatus, Run | None], str]]] = {
    "agent": lambda status, _: status.agent,
    "model": lambda _, run: (run.model if run else None) or UNKNOWN_MODEL,
    "day": lambda status, _: f"{status.record.changed_at.astimezone(UTC):%Y-%m-%d}",
    "sender": lambda status, _: status.record.entry.sender,
}
"""What a group is called, by the kind of grouping. A day is one of UTC, that of the last change of the entry."""


@dataclass(slots=True)
class Spent:
    """What tasks used and cost together, as far as their results say.

    Attributes:
        tasks: how many settled tasks there are.
        ran: how many of them were given to an agent at all.
        without_tokens: how many of those say nothing of tokens.
        without_cost: how many of those say no cost.
        repeated: how many had more than one attempt; the figures are those of the last one.
    """

    tasks: int = 0
    ran: int = 0
    without_tokens: int = 0
    without_cost: int = 0
    repeated: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, attempts: int, run: Run | None) -> None:
        """Add a task."""
        self.tasks += 1
        if not attempts and run is None:
            return
        usage, cost = (run.usage, run.cost_usd) if run else (None, None)
        self.ran += 1
        self.repeated += attempts > 1
        self.without_cost += cost is None
        self.cost_usd += cost or 0
        if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
            self.without_tokens += 1
            return
        self.input_tokens += usage.input_tokens or 0
        self.cached_input_tokens += usage.cached_input_tokens or 0
        self.output_tokens += usage.output_tokens or 0

    def merge(self, other: "Spent") -> None:
        """Add what other tasks used."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, Json]:
        """Return a plain object; tokens and the cost are left out where no task says any."""
        tokens = ("input_tokens", "cached_input_tokens", "output_tokens")
        known = {name: getattr(self, name) for name in tokens} if self.without_tokens < self.ran else {}
        cost = {"cost_usd": round(self.cost_usd, 6)} if self.without_cost < self.ran else {}
        counts = {name: getattr(self, name) for name in ("tasks", "ran", "repeated", "without_tokens", "without_cost")}
        return {**counts, **known, **cost}


@dataclass(slots=True)
class Spending:
    """What the tasks of a search used and cost, by group.

    Attributes:
        groups: by the names of the groups.
        oldest: when the oldest of the tasks was settled; None if there are none.
        found: how far the search came, as a list of tasks without tasks.
    """

    groups: dict[str, Spent] = field(default_factory=dict[str, Spent])
    oldest: datetime | None = None
    found: TaskList = field(default_factory=lambda: TaskList([]))

    def group(self, name: str) -> Spent:
        """Return the group of this name, or that of the others where there are too many."""
        if name not in self.groups and len(self.groups) >= MOST_GROUPS:
            name = OTHERS
        return self.groups.setdefault(name, Spent())

    def go_on_with(self, older: "Spending") -> None:
        """Add what a search found that went on where this one had stopped."""
        for name, spent in older.groups.items():
            self.group(name).merge(spent)
        self.oldest, self.found = older.oldest or self.oldest, older.found

    @property
    def total(self) -> Spent:
        """The sum of all groups."""
        total = Spent()
        for spent in self.groups.values():
            total.merge(spent)
        return total


async def spending(
    bus: Bus,
    wanted: Wanted,
    by: Grouping,
    *,
    since: datetime | None = None,
    cursor: int | None = None,
    search_s: float = SEARCH_S,
) -> Spending:
    """Sum up the settled tasks that changed last, back to `since`, or for as long as the search may take.

    Args:
        wanted: whose tasks; see `Wanted.settled`.
        cursor: that of `Spending.found` of an earlier search, which this one goes on with towards older tasks.

    Raises:
        SetupMissingError: there is no ledger on this bus.
        PermissionDeniedError: this user may not read it.
    """
    sums, name_of = Spending(), GROUPINGS[by]

    def add(status: TaskStatus) -> None:
        run = status.run
        sums.group(name_of(status, run)).add(status.record.entry.attempt, run)
        sums.oldest = status.record.changed_at

    search = Search(bus, wanted, add, limit=None, search_s=search_s, since=since)
    sums.found = await search.backwards(_FIRST, cursor)
    return sums


async def kept_days(bus: Bus) -> float | None:
    """Return for how many days the ledger keeps a settled task; 0 for ever, None where this user may not see it."""
    if not bus.reads_ledger_state:
        return None
    try:
        for ledger in await agent_ledgers(bus) or ():
            return ledger.max_age_s / 86_400  # all keep equally long
        return (await bus.stream_info(subjects.STATE_STREAM)).max_age_s / 86_400
    except PermissionDeniedError:
        return None
