"""`agentbus backup` and `agentbus restore`: the administrator's."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentbus.cli import output
from agentbus.cli.options import bus_options, coordinator, run

if TYPE_CHECKING:
    from agentbus.admin.backup import Copied

_FOLDER = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


@click.command(
    epilog="""\b
Examples:
  agentbus backup /srv/backup/2026-11-24 --config admin.toml"""
)
@_FOLDER
@bus_options
def backup(folder: Path, nats_url: str | None, config: Path | None) -> None:
    """Copy everything that is on the bus into FOLDER, while the bus runs."""
    run(_backup(folder, nats_url, config))


async def _backup(folder: Path, nats_url: str | None, config: Path | None) -> None:
    from agentbus.admin.backup import back_up  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        async for one in back_up(bus.bus, folder):
            _print(one)


@click.command(
    epilog="""\b
Examples:
  agentbus restore /srv/backup/2026-11-24 --config admin.toml
  agentbus restore /srv/backup/2026-11-24 --config admin.toml --replicas 3"""
)
@_FOLDER
@click.option(
    "--replicas", type=click.IntRange(1, 5), help="Copies in a cluster (1, 3 or 5).  [default: as many as there were]"
)
@bus_options
def restore(folder: Path, replicas: int | None, nats_url: str | None, config: Path | None) -> None:
    """Bring what `agentbus backup` has copied onto a bus that has no streams.

    Stop all workers and coordinators first: what happened after the backup is forgotten, and they still know of it.
    """
    run(_restore(folder, replicas, nats_url, config))


async def _restore(folder: Path, replicas: int | None, nats_url: str | None, config: Path | None) -> None:
    from agentbus.admin.backup import restore as bring_back  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        async for one in bring_back(bus.bus, folder, replicas=replicas):
            _print(one)


def _print(one: "Copied") -> None:
    """A line as soon as a stream is there whole: a large one takes long."""
    if output.on_terminal():
        click.echo(f"{one.stream}: {one.messages} messages, {one.bytes} bytes")
    else:
        output.json_line({"stream": one.stream, "messages": one.messages, "bytes": one.bytes})
