"""`agentbus setup`: make what a bus needs."""

from pathlib import Path

import click

from agentbus.cli import output
from agentbus.cli.options import AgentId, bus_options, coordinator, run


@click.command(
    short_help="Make the streams, buckets and consumers of a bus.",
    epilog="""\b
Examples:
  agentbus setup --nats-url nats://127.0.0.1:7422
  agentbus setup --config admin.toml --agent code --agent doc
  agentbus setup --config admin.toml --agent code --replicas 3 --update""",
)
@click.option(
    "--agent",
    "agents",
    metavar="ID",
    type=AgentId(),
    multiple=True,
    help="Make the consumer and the files bucket of this agent too; repeatable.",
)
@click.option("--replicas", type=click.IntRange(1, 5), help="Copies in a cluster (1, 3 or 5).  [default: 1]")
@click.option("--update", is_flag=True, help="Also change what exists and is different, where that is possible.")
@bus_options
def setup(
    agents: tuple[str, ...], replicas: int | None, nats_url: str | None, config: Path | None, *, update: bool
) -> None:
    """Make the streams, buckets and consumers of a bus; needs an administrator's credentials.

    Running it again is harmless: it says what it made, what it found, and what it found different.
    """
    run(_setup(agents, replicas, nats_url, config, update=update))


async def _setup(
    agents: tuple[str, ...], replicas: int | None, nats_url: str | None, config: Path | None, *, update: bool
) -> None:
    from agentbus.streams import set_up, version_warning  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        if warning := version_warning(bus.bus.server_version):
            output.remark(f"warning: {warning}")
        findings = await set_up(bus.bus, agents, replicas=replicas, update=update)
    if output.on_terminal():
        output.table(
            ["kind", "name", "outcome", "differences"],
            [[item.kind, item.name, item.outcome, "\n".join(item.differences)] for item in findings],
        )
    else:
        for item in findings:
            output.json_line(
                {
                    "kind": item.kind,
                    "name": item.name,
                    "outcome": item.outcome,
                    **({"differences": list(item.differences)} if item.differences else {}),
                }
            )
    if not update and any(item.outcome == "different" for item in findings):
        output.remark("some things are different from what agentbus wants; --update changes what can be changed")
