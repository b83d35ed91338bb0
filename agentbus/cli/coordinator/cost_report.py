"""Prints what tasks used and cost for `agentbus cost`: searches to the end, and prints what it has when interrupted."""

from datetime import datetime
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.cli import output
from agentbus.cli.coordinator.figures import dollars, tokens
from agentbus.cli.fitted_table import print_figures
from agentbus.tasks.listing.spending import OTHERS, Grouping, Spending, Spent, kept_days, spending
from agentbus.tasks.listing.wanted import Wanted

_ORDER: Final = ("tasks", "input", "cached", "output", "cost", "no cost", "no tokens")
_IMPORTANCE: Final = ("cost", "tasks", "output", "input", "no cost", "cached", "no tokens")
"""Which columns a narrow terminal shows: as many as it has room for."""


class CostReport:
    """The figures of a bus, in the making."""

    def __init__(self, bus: Bus, wanted: Wanted, by: Grouping, since: datetime | None) -> None:
        self._bus = bus
        self._wanted = wanted
        self._by: Grouping = by
        self._since = since
        self._sums: Spending | None = None

    async def run(self, cursor: int | None) -> None:
        """Search until there are no more tasks, and say on standard error how far it is.

        Whatever ends it, also Ctrl-C and a lost bus, prints the figures so far and how to go on.
        """
        days = None
        try:
            while await self._search(self._sums.found.cursor if self._sums else cursor):
                pass
            days = await kept_days(self._bus)
        finally:
            self._print(days)

    async def _search(self, cursor: int | None) -> bool:
        """Take a part of the ledger in; return whether the search has to go on."""
        part = await spending(self._bus, self._wanted, self._by, since=self._since, cursor=cursor)
        if self._sums is None:
            self._sums = part
        else:
            self._sums.go_on_with(part)
        found = part.found
        for fault in found.unreadable:
            output.remark(f"warning: {fault}")
        if found.partial and found.reached is not None:
            output.remark(f"searched back to {found.reached:%Y-%m-%d %H:%M:%S} UTC; {found.left:,} entries are left")
        return found.partial

    def _print(self, days: float | None) -> None:
        if self._sums is None:
            return
        groups = self._sorted(self._sums)
        if output.tabular():
            rows = [*groups, ("total", self._sums.total)] if len(groups) > 1 else groups
            figures = [(name, _cells(spent)) for name, spent in rows]
            print_figures(self._by, _ORDER, figures, _IMPORTANCE, copied=self._by != "model")
        else:
            for name, spent in groups:
                output.json_line({self._by: name, **spent.to_json()})
        for text in _remarks(self._sums, days):
            output.remark(text)

    def _sorted(self, sums: Spending) -> list[tuple[str, Spent]]:
        """Days in their order; other groups by what they cost, then by what they wrote. The others come last."""
        if self._by == "day":
            return sorted(sums.groups.items())
        return sorted(
            sums.groups.items(),
            key=lambda item: (item[0] == OTHERS, -item[1].cost_usd, -item[1].output_tokens, item[0]),
        )


def _cells(spent: Spent) -> dict[str, str]:
    told, priced = spent.without_tokens < spent.ran, spent.without_cost < spent.ran
    return {
        "tasks": f"{spent.tasks:,}",
        "input": tokens(spent.input_tokens) if told else "",
        "cached": tokens(spent.cached_input_tokens) if told else "",
        "output": tokens(spent.output_tokens) if told else "",
        "cost": dollars(spent.cost_usd) if priced else "",
        "no cost": f"{spent.without_cost:,}" if spent.without_cost else "",
        "no tokens": f"{spent.without_tokens:,}" if spent.without_tokens else "",
    }


def _remarks(sums: Spending, days: float | None) -> list[str]:
    """Say what the figures do not hold, and how far back they reach."""
    total = sums.total
    said: list[str] = []
    if total.without_cost or total.without_tokens:
        tell = f"{total.without_cost:,} tell no cost and {total.without_tokens:,} no tokens"
        said.append(f"of {total.ran:,} tasks that ran, {tell}: their agents do not, or were ended before they could")
    if total.incomplete:
        lack = "a worker was lost, or its agent did not tell"
        said.append(f"the figures of {total.incomplete:,} tasks lack those of an attempt: {lack}")
    if sums.found.partial:
        said.append(f"not all tasks were looked at; older ones: --cursor {sums.found.cursor}")
    elif sums.oldest is None:
        said.append("no settled task was found")
    else:
        kept = f"; the ledger keeps settled tasks for {days:g} days" if days else ""
        said.append(f"the oldest of {total.tasks:,} tasks was settled {sums.oldest:%Y-%m-%d %H:%M} UTC{kept}")
    return said
