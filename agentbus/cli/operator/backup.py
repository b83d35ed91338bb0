"""`agentbus backup` and `agentbus restore`: copies all streams of a bus, and restores them. For administrators."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import FOLDER, Count, with_administrator

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.admin.backup import StreamCopy
    from agentbus.coordinator import Coordinator

_folder = click.argument("folder", type=FOLDER)


@click.command(
    epilog="""\b
Examples:
  agentbus backup /srv/backup/2026-11-24 --config admin.toml"""
)
@_folder
@with_administrator
async def backup(bus: "Coordinator", *, folder: "Path") -> None:
    """Copy everything that is on the bus into a folder. The bus may be in use."""
    async for one in lazy.backup.back_up(bus.bus, folder):
        _print(one)


@click.command(
    epilog="""\b
Examples:
  agentbus restore /srv/backup/2026-11-24 --config admin.toml
  agentbus restore /srv/backup/2026-11-24 --config admin.toml --replicas 3"""
)
@_folder
@click.option("--replicas", type=Count(1, 5), help="Replicas in a cluster (1, 3 or 5).  [default: those of the backup]")
@with_administrator
async def restore(bus: "Coordinator", *, folder: "Path", replicas: int | None) -> None:
    """Restore a backup onto a bus that has no streams.

    Stop all workers and coordinators first: they have state from after the backup, which the bus then lacks.
    """
    async for one in lazy.backup.restore(bus.bus, folder, replicas=replicas):
        _print(one)


def _print(one: "StreamCopy") -> None:
    """Print one stream. It is called for each as it is done, because a large one takes long."""
    if output.on_terminal():
        output.line(f"{one.stream}: {one.messages} messages, {one.bytes} bytes")
    else:
        output.json_line({"stream": one.stream, "messages": one.messages, "bytes": one.bytes})
