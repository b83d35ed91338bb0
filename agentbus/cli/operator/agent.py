"""`agentbus agent`: who is there, and who may be."""

from pathlib import Path
from typing import Any

import click

from agentbus.cli import output
from agentbus.cli.operator import members
from agentbus.cli.options import AgentId, bus_options, coordinator, run


@click.group()
def agent() -> None:
    """See which agents are there; say who may use a bus."""


for _member_command in (members.add, members.remove, members.rotate, members.bundle):
    agent.add_command(_member_command)


@agent.command(
    "list",
    epilog="""\b
Examples:
  agentbus agent list
  agentbus agent list --agent code | jq '.workers[].free'""",
)
@click.option("--agent", "only", metavar="ID", type=AgentId(), help="Only this agent.")
@bus_options
def list_(only: str | None, nats_url: str | None, config: Path | None) -> None:
    """List the workers that are alive, with their free slots, and how many tasks wait for their agent.

    A worker that was killed is listed for up to 90 seconds more.
    """
    run(_list(only, nats_url, config))


async def _list(only: str | None, nats_url: str | None, config: Path | None) -> None:
    async with coordinator(nats_url, config) as bus:
        agents = await bus.overview(only)
    if output.on_terminal():
        output.table(
            ["agent", "waiting", "running", "workers", "free slots", "last seen", "version", "description"],
            [_row(one) for one in agents],
        )
    else:
        for one in agents:
            output.json_line(one)


def _row(one: dict[str, Any]) -> list[str]:
    workers: list[dict[str, Any]] = one["workers"]
    return [
        one["agent"],
        str(one.get("waiting", "?")),
        str(one.get("unacknowledged", "?")),
        str(len(workers)) if workers else "none alive",
        str(sum(worker["free"] for worker in workers)),
        max((worker["seen_at"][:19] for worker in workers), default=""),
        ", ".join(sorted({worker["version"] for worker in workers})),
        next((worker["description"] for worker in workers if worker["description"]), ""),
    ]
