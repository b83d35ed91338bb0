"""`agentbus status` and `agentbus top`: print an overview of the bus, once or live."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import Amount, Count, output_option, with_coordinator
from agentbus.errors import BusUnavailableError

if TYPE_CHECKING:
    from agentbus.admin.overview import OverviewReader
    from agentbus.coordinator import Coordinator

_recent = click.option("--recent", type=Count(0, 100), default=10, show_default=True, help="How many settled tasks.")


@click.command(
    epilog="""\b
Examples:
  agentbus status
  agentbus status | jq '.agents[] | select(.online | not) | .agent'""",
)
@_recent
@output_option
@with_coordinator
async def status(bus: "Coordinator", *, recent: int) -> None:
    """Show the bus on one page.

    It has what needs a person, what runs, what waits, the agents, and what was settled last.

    Streams are shown where they fill. In a pipe, one line of JSON.
    """
    overview = await lazy.overview.OverviewReader(bus, recent=recent).read()
    if output.tabular():
        lazy.page.print_page(overview)
    else:
        output.json_line(overview.to_json())


@click.command(
    epilog="""\b
Examples:
  agentbus top
  agentbus top --interval 1 --recent 20
  agentbus top --count 60 > an-hour-in-minutes.jsonl --interval 60""",
)
@click.option("--interval", type=Amount(min=0.2), default=2.0, show_default=True, help="Seconds between snapshots.")
@_recent
@click.option("--count", type=Count(min=1), help="End after this many snapshots.")
@output_option
@with_coordinator
async def top(bus: "Coordinator", *, interval: float, recent: int, count: int | None) -> None:
    """Watch the bus live. Runs until q or Ctrl-C, across server restarts.

    In a pipe, one line of JSON for each snapshot.

    Enter opens the task that is marked with its live log, Esc goes back.
    """
    reader = lazy.overview.OverviewReader(bus, recent=recent)
    if output.on_terminal() and output.tabular():
        await lazy.live_top.LiveTop(bus, reader, interval, count).run()
    else:
        await _lines(reader, interval, count)


async def _lines(reader: "OverviewReader", interval: float, count: int | None) -> None:
    taken = 0
    while True:
        try:
            output.json_line((await reader.read()).to_json())
        except BusUnavailableError as error:
            output.remark(f"warning: {error}")
        taken += 1
        if taken == count:
            return
        await lazy.asyncio.sleep(interval)
