"""`agentbus dead`: what no worker could accept. The administrator's."""

from pathlib import Path

import click

from agentbus.cli import output
from agentbus.cli.options import AgentId, bus_options, coordinator, run

_SEQ = click.argument("seqs", metavar="SEQ...", type=click.IntRange(min=1), nargs=-1, required=True)


@click.group()
def dead() -> None:
    """Look after dead letters: messages that no worker could accept."""


@dead.command(
    "list",
    epilog="""\b
Examples:
  agentbus dead list --config admin.toml
  agentbus dead list --agent code --limit 100""",
)
@click.option("--agent", metavar="ID", type=AgentId(), help="Only those of this agent.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many of the newest.")
@bus_options
def list_(agent: str | None, limit: int, nats_url: str | None, config: Path | None) -> None:
    """List the newest dead letters, oldest first, with the reason of each."""
    run(_list(agent, limit, nats_url, config))


async def _list(agent: str | None, limit: int, nats_url: str | None, config: Path | None) -> None:
    from agentbus.admin.dead_letters import newest_dead_letters  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        letters = await newest_dead_letters(bus.bus, limit, agent=agent)
    if output.on_terminal():
        output.table(
            ["seq", "agent", "buried", "bytes", "reason"],
            [
                [str(one.seq), one.agent, f"{one.buried_at:%Y-%m-%d %H:%M}", str(one.size), one.reason]
                for one in letters
            ],
        )
    else:
        for letter in letters:
            output.json_line(letter.to_json())


@dead.command(
    epilog="""\b
Examples:
  agentbus dead show 17 --config admin.toml""",
)
@bus_options
@_SEQ
def show(seqs: tuple[int, ...], nats_url: str | None, config: Path | None) -> None:
    """Show dead letters with what was kept of each message."""
    run(_show(seqs, nats_url, config))


async def _show(seqs: tuple[int, ...], nats_url: str | None, config: Path | None) -> None:
    from agentbus.admin.dead_letters import dead_letter  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        for seq in seqs:
            output.json_line((await dead_letter(bus.bus, seq)).to_json(with_data=True))


@dead.command(
    epilog="""\b
Examples:
  agentbus dead requeue 17 18 --config admin.toml""",
)
@bus_options
@_SEQ
def requeue(seqs: tuple[int, ...], nats_url: str | None, config: Path | None) -> None:
    """Give dead letters to the workers again, once what stood against them is mended."""
    run(_requeue(seqs, nats_url, config))


async def _requeue(seqs: tuple[int, ...], nats_url: str | None, config: Path | None) -> None:
    from agentbus.admin.dead_letters import requeue as requeue_one  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        for seq in seqs:
            letter = await requeue_one(bus.bus, seq)
            output.json_line({"seq": seq, "requeued_for": letter.agent})


@dead.command(
    epilog="""\b
Examples:
  agentbus dead drop 17 18 --config admin.toml""",
)
@bus_options
@_SEQ
def drop(seqs: tuple[int, ...], nats_url: str | None, config: Path | None) -> None:
    """Delete dead letters for good."""
    run(_drop(seqs, nats_url, config))


async def _drop(seqs: tuple[int, ...], nats_url: str | None, config: Path | None) -> None:
    from agentbus.admin.dead_letters import drop as drop_one  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        for seq in seqs:
            await drop_one(bus.bus, seq)
            output.json_line({"seq": seq, "dropped": True})
