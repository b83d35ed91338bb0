"""What tasks used and cost, by agent and by day, for the page: over the days that it asks for, within a short time."""

from datetime import UTC, datetime, timedelta
from typing import Final

from agentbus.coordinator import Coordinator
from agentbus.protocol.json_codec import Json
from agentbus.tasks.listing.spending import Grouping, Spending, kept_days, spending
from agentbus.tasks.listing.task_list import Wanted
from agentbus.ui.rows import Row, known
from agentbus.ui.shown_text import line

MOST_DAYS: Final = 38
"""For how long the ledger keeps settled tasks by default."""
_SEARCH_S: Final = 2.0
_MOST_GROUPS: Final = 60


async def costs(bus: Coordinator, days: int) -> Row:
    """Sum up the settled tasks of the last days, as far as a search of two seconds comes.

    Raises:
        SetupMissingError, PermissionDeniedError, BusUnavailableError: see `spending`.
    """
    days = max(1, min(days, MOST_DAYS))
    since = datetime.now(UTC) - timedelta(days=days)
    wanted = Wanted.of(bus, settled=True)
    by_agent, by_day = [await spending(bus.bus, wanted, by, since=since, search_s=_SEARCH_S) for by in _GROUPINGS]
    found = by_agent.found
    reached = found.reached.isoformat() if found.partial and found.reached else None
    return known(
        days=days,
        total=by_agent.total.to_json(),
        by_agent=_by_cost(by_agent),
        by_day=_by_name(by_day),
        reached=reached,
        kept_days=await kept_days(bus.bus),
    )


_GROUPINGS: Final[tuple[Grouping, Grouping]] = ("agent", "day")


def _by_cost(sums: Spending) -> list[Json]:
    """The dearest first, then those with most tasks."""
    order = sorted(sums.groups.items(), key=lambda item: (-item[1].cost_usd, -item[1].tasks, item[0]))
    return [{"name": line(name, 100), **spent.to_json()} for name, spent in order[:_MOST_GROUPS]]


def _by_name(sums: Spending) -> list[Json]:
    """The newest day first."""
    return [
        {"name": name, **spent.to_json()} for name, spent in sorted(sums.groups.items(), reverse=True)[:_MOST_GROUPS]
    ]
