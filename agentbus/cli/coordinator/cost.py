"""`agentbus cost`: what tasks used and cost, as their agents report it."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy
from agentbus.cli.options import (
    Count,
    agent_option,
    in_group_option,
    output_option,
    owner_option,
    since_option,
    type_option,
    with_coordinator,
)

if TYPE_CHECKING:
    from datetime import datetime

    from agentbus.coordinator import Coordinator
    from agentbus.tasks.listing.spending import Grouping

_GROUPINGS = ("agent", "model", "day", "sender", "group")
"""The keys of `agentbus.tasks.listing.spending.GROUPINGS`, which help must not load."""


@click.command(
    short_help="Show what tasks used and cost, by agent, model, day, sender or group.",
    epilog="""\b
Examples:
  agentbus cost
  agentbus cost --by model --since 7d
  agentbus cost --by group
  agentbus cost --by day --agent code | jq -r '[.day, .cost_usd] | @tsv'

\b
Tokens and dollars are those that the agents report, of all attempts of each settled task; nothing is
reckoned here. What no agent tells is counted as such. The ledger keeps a task for 38 days by default, so that
is how far back the figures reach; they say so. Days are those of UTC. In a pipe, one line of JSON a group.
Ctrl-C prints the figures so far, and the option --cursor that goes on.""",
)
@click.option(
    "--by", type=click.Choice(_GROUPINGS), default="agent", show_default=True, help="What the figures are summed up by."
)
@since_option
@agent_option()
@owner_option
@in_group_option
@type_option
@output_option
@click.option("--cursor", type=Count(min=1), help="Go on where an earlier search ended, towards older tasks.")
@with_coordinator
async def cost(
    bus: "Coordinator",
    *,
    by: "Grouping",
    since: "datetime | None",
    agent: str | None,
    owner: str | None,
    group: str | None,
    task_type: str | None,
    cursor: int | None,
) -> None:
    """Sum up the tokens and the cost of settled tasks. A member of the bus sees its own tasks only."""
    wanted = lazy.wanted.Wanted.of(bus, agent, owner, group=group, task_type=task_type, settled=True)
    await lazy.cost_report.CostReport(bus.bus, wanted, by, since).run(cursor)
