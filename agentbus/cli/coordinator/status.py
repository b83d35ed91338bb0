"""`agentbus status` and `agentbus top`: print an overview of the bus, once or live."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import with_coordinator
from agentbus.errors import BusUnavailableError

if TYPE_CHECKING:
    from agentbus.admin.overview import OverviewReader
    from agentbus.coordinator import Coordinator

_recent = click.option(
    "--recent", type=click.IntRange(0, 100), default=10, show_default=True, help="How many settled tasks."
)


@click.command(
    epilog="""\b
Examples:
  agentbus status
  agentbus status | jq '.agents[] | select(.online | not) | .agent'""",
)
@_recent
@with_coordinator
async def status(bus: "Coordinator", *, recent: int) -> None:
    """Show the bus on one page. It has streams, agents, running tasks and recent results.

    In a pipe, one line of JSON.
    """
    overview = await lazy.overview.OverviewReader(bus, recent=recent).read()
    if output.on_terminal():
        lazy.status_tables.print_page(overview)
    else:
        output.json_line(overview.to_json())


@click.command(
    epilog="""\b
Examples:
  agentbus top
  agentbus top --interval 1 --recent 20
  agentbus top --count 60 > an-hour-in-minutes.jsonl --interval 60""",
)
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between snapshots."
)
@_recent
@click.option("--count", type=click.IntRange(min=1), help="End after this many snapshots.")
@with_coordinator
async def top(bus: "Coordinator", *, interval: float, recent: int, count: int | None) -> None:
    """Watch the bus live. Runs until Ctrl-C, across server restarts. In a pipe, one line of JSON for each snapshot."""
    reader = lazy.overview.OverviewReader(bus, recent=recent)
    if output.on_terminal():
        await _live(reader, interval, count)
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


async def _live(reader: "OverviewReader", interval: float, count: int | None) -> None:
    taken = 0
    with lazy.status_tables.LivePage() as page:
        while True:
            try:
                page.show(await reader.read())
            except BusUnavailableError as error:
                page.show_error(error)
            taken += 1
            if taken == count:
                break
            await lazy.asyncio.sleep(interval)
    page.print_last()
