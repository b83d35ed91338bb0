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
from agentbus.protocol.outcomes.usage_of_runs import UsageOfRuns, with_run
from agentbus.tasks.listing.task_list import SEARCH_S, Search, TaskList
from agentbus.tasks.listing.wanted import Wanted
from agentbus.tasks.status import TaskStatus

Grouping: TypeAlias = Literal["agent", "model", "day", "sender", "group"]
WITHOUT_GROUP: Final = "(none)"
"""The group of tasks that were published in none."""
UNKNOWN_MODEL: Final = "unknown"
"""The group of tasks whose agent does not name its model."""
OTHERS: Final = "(others)"
"""The group of what comes after `MOST_GROUPS`: models and senders are named by others, who may name any number."""
MOST_GROUPS: Final = 1_000
_FIRST: Final = 500
"""How many entries are looked at first, at least."""


def _model_of(status: TaskStatus, run: Run | None) -> str:
    """Return the model of the last run that named one."""
    earlier = status.record.entry.earlier
    return (run.model if run else None) or (earlier.model if earlier else None) or UNKNOWN_MODEL


GROUPINGS: Final[dict[Grouping, Callable[[TaskStatus, Run | None], str]]] = {
    "agent": lambda status, _: status.agent,
    "model": _model_of,
    "day": lambda status, _: f"{status.record.changed_at.astimezone(UTC):%Y-%m-%d}",
    "sender": lambda status, _: status.record.entry.sender,
    "group": lambda status, _: status.group or WITHOUT_GROUP,
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
        repeated: how many had more than one attempt; the figures are those of all of them.
        incomplete: how many have figures that lack those of a run: it was lost, or its agent told none.
    """

    tasks: int = 0
    ran: int = 0
    without_tokens: int = 0
    without_cost: int = 0
    repeated: int = 0
    incomplete: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, attempts: int, run: Run | None, earlier: UsageOfRuns | None = None) -> None:
        """Add a task: its last run, and what those before it told."""
        self.tasks += 1
        if not attempts and run is None and earlier is None:
            return
        used = with_run(earlier, run) or UsageOfRuns()
        runs = max(attempts, (earlier.runs if earlier else 0) + (run is not None))
        self.ran += 1
        self.repeated += runs > 1
        self.without_cost += not used.with_cost
        self.without_tokens += not used.with_tokens
        self.incomplete += 0 < used.with_cost < runs or 0 < used.with_tokens < runs
        self.cost_usd += used.cost_usd
        self.input_tokens += used.input_tokens
        self.cached_input_tokens += used.cached_input_tokens
        self.output_tokens += used.output_tokens

    def merge(self, other: "Spent") -> None:
        """Add what other tasks used."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, Json]:
        """Return a plain object; tokens and the cost are left out where no task says any."""
        tokens = ("input_tokens", "cached_input_tokens", "output_tokens")
        known = {name: getattr(self, name) for name in tokens} if self.without_tokens < self.ran else {}
        cost = {"cost_usd": round(self.cost_usd, 6)} if self.without_cost < self.ran else {}
        counts = {
            name: getattr(self, name)
            for name in ("tasks", "ran", "repeated", "incomplete", "without_tokens", "without_cost")
        }
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
        entry = status.record.entry
        sums.group(name_of(status, run)).add(entry.attempt, run, entry.earlier)
        sums.oldest = status.record.changed_at

    search = Search(bus, wanted, add, limit=None, search_s=search_s, since=since)
    sums.found = await search.backwards(_FIRST, cursor)
    return sums


async def all_spending(bus: Bus, wanted: Wanted, by: Grouping, since: datetime | None) -> Spending:
    """Sum up the settled tasks back to `since`, or all that the ledger keeps, however long that takes.

    Raises:
        SetupMissingError, PermissionDeniedError: see `spending`.
    """
    sums = await spending(bus, wanted, by, since=since)
    while sums.found.partial:
        sums.go_on_with(await spending(bus, wanted, by, since=since, cursor=sums.found.cursor))
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
