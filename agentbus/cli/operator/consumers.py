"""`agentbus consumers`: what reads the streams of a bus. Commands of the administrator."""

import sys
from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import output_option, with_administrator

if TYPE_CHECKING:
    from agentbus.coordinator import Coordinator


@click.group()
def consumers() -> None:
    """List the consumers of the streams, and delete foreign ones."""


@consumers.command(
    "list",
    short_help="List the consumers of all streams.",
    epilog="""\b
Examples:
  agentbus consumers list --config admin.toml
  agentbus consumers list --foreign --config admin.toml""",
)
@click.option("--foreign", is_flag=True, help="Only those that agentbus cannot have made, with the reason.")
@output_option
@with_administrator
async def list_(bus: "Coordinator", *, foreign: bool) -> None:
    """List the consumers of all streams.

    A foreign consumer stays after the credential of its maker was removed, and can make others wait. Delete it unless
    you made it on purpose: agentbus consumers remove.
    """
    found = [one for one in await lazy.consumers.consumers_of_bus(bus.bus) if one.foreign or not foreign]
    if output.tabular():
        output.table(
            ["stream", "consumer", "filters", "delivers to", "waiting", "foreign"],
            [
                [one.stream, one.name, "\n".join(one.filters), one.deliver_subject or "", str(one.waiting), one.foreign]
                for one in found
            ],
        )
    else:
        for one in found:
            output.json_line(one.to_json())


@consumers.command(
    short_help="Delete consumers.",
    epilog="""\b
Examples:
  agentbus consumers remove KV_AGENT_STATE/abc --config admin.toml
  agentbus consumers remove --foreign --config admin.toml
  agentbus consumers remove --foreign --yes --config admin.toml""",
)
@click.argument("paths", metavar="CONSUMER...", nargs=-1)
@click.option("--foreign", is_flag=True, help="Delete all that agentbus cannot have made.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_administrator
async def remove(bus: "Coordinator", *, paths: tuple[str, ...], foreign: bool, yes: bool) -> None:
    """Delete the consumers that are named as STREAM/NAME, or all foreign ones.

    The consumer of an agent's tasks is its delivery progress. If it is deleted, `agentbus setup --agent ID` makes it
    again, and tasks that are running are delivered once more; each still has one result.
    """
    if bool(paths) == foreign:
        raise click.UsageError("name the consumers as STREAM/NAME, or give --foreign")
    found = await lazy.consumers.consumers_of_bus(bus.bus)
    chosen = [one for one in found if one.foreign] if foreign else lazy.consumers.select(found, paths)
    if foreign and chosen and not yes:
        for one in chosen:
            output.remark(f"{one.path}: {one.foreign}")
        if not sys.stdin.isatty():
            raise click.UsageError("nothing was deleted: no person can be asked here; add --yes")
        await lazy.asyncio.to_thread(click.confirm, f"Delete these {len(chosen)} consumers?", abort=True, err=True)
    for one in await lazy.consumers.remove_consumers(bus.bus, chosen):
        output.json_line({"stream": one.stream, "name": one.name, "removed": True})
