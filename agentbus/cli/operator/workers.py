"""`agentbus worker list`: shows the workers that are alive, each with what it does."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy
from agentbus.cli.options import agent_option, output_option, with_coordinator
from agentbus.cli.output import json_line, tabular

if TYPE_CHECKING:
    from agentbus.coordinator import Coordinator


@click.command(
    "list",
    short_help="List the workers that are alive, with what they do.",
    epilog="""\b
Examples:
  agentbus worker list
  agentbus worker list --agent code | jq -r '.running[]'""",
)
@agent_option()
@output_option
@with_coordinator
async def list_(bus: "Coordinator", *, agent: str | None) -> None:
    """List the workers that are alive: idle, working on how many tasks, paused and why, and where each runs.

    A worker that was killed is listed for up to 90 seconds more.
    """
    workers = [worker for one in await bus.overview(agent) for worker in one.workers]
    if tabular():
        lazy.worker_rows.print_workers(workers)
    else:
        for worker in workers:
            json_line(worker.model_dump(exclude_none=True))
