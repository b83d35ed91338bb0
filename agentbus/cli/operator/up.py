"""`agentbus up`: runs a bus on this machine, in the foreground."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy
from agentbus.cli.options import FOLDER, Count, agents_option

if TYPE_CHECKING:
    from pathlib import Path

_PORT = 7422


@click.command(
    short_help="Run a bus on this machine, in the foreground.",
    epilog="""\b
Examples:
  agentbus up
  agentbus up --agent code --agent doc
  agentbus up --port 0 --store /tmp/bus       a free port, another store""",
)
@click.option("--port", type=Count(0, 65535), default=_PORT, show_default=True, help="0 picks a free one.")
@click.option(
    "--store",
    type=FOLDER,
    help="Where messages are kept.  [default: ~/.agentbus/nats]",
)
@agents_option("Also make the consumer of this agent")
def up(port: int, store: "Path | None", agents: tuple[str, ...]) -> None:
    """Run a nats-server here, with everything agentbus needs, until Ctrl-C.

    It listens on 127.0.0.1 only and asks for no password: it is for one person on one machine. It writes each message
    to disk before it acknowledges it. The other commands find it without options.
    """
    store = lazy.home.in_home(store or "~/.agentbus/nats").absolute()
    lazy.asyncio.run(lazy.local_bus.run_bus(port, store, agents))
