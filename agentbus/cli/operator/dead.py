"""`agentbus dead`: messages that no worker could accept. Commands of the administrator."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import Count, agent_option, limit_option, output_option, since_option, with_administrator
from agentbus.cli.waiting_tasks import warn_without_worker

if TYPE_CHECKING:
    from datetime import datetime

    from agentbus.coordinator import Coordinator

_seqs = click.argument("seqs", metavar="SEQ...", type=Count(min=1), nargs=-1, required=True)


@click.group()
def dead() -> None:
    """Show, requeue or delete dead letters: messages that no worker could accept."""


@dead.command(
    "list",
    short_help="List the newest dead letters and their reasons.",
    epilog="""\b
Examples:
  agentbus dead list --config admin.toml
  agentbus dead list --agent code --limit 100""",
)
@agent_option()
@limit_option("How many of the newest.")
@since_option
@click.option("--text", metavar="TEXT", help="Only letters with this in their reason.")
@output_option
@with_administrator
async def list_(
    bus: "Coordinator", *, agent: str | None, limit: int, since: "datetime | None", text: str | None
) -> None:
    """List the newest dead letters, oldest first, with the reason of each.

    Of each agent and publisher a bounded number is kept. The command says how many letters are gone early, and whose.
    """
    newest = await lazy.dead_letters.newest_dead_letters(bus.bus, limit, agent=agent)
    letters = [
        one
        for one in newest
        if (since is None or one.stored_at >= since) and (text or "").casefold() in one.reason.casefold()
    ]
    if output.tabular():
        output.table(
            ["seq", "agent", "reason", "ago", "bytes"],
            [
                [str(one.seq), one.agent, one.reason, lazy.fitted_table.since(one.stored_at), str(one.size)]
                for one in letters
            ],
        )
    else:
        for letter in letters:
            output.json_line(letter.to_json())
    gone = await lazy.dead_letters.pushed_out(bus.bus, agent=agent)
    for line in gone.lines() if gone else ():
        output.remark(line)


@dead.command(
    epilog="""\b
Examples:
  agentbus dead show 17 --config admin.toml""",
)
@_seqs
@with_administrator
async def show(bus: "Coordinator", *, seqs: tuple[int, ...]) -> None:
    """Show dead letters with what was kept of each message."""
    for seq in seqs:
        output.json_line((await lazy.dead_letters.dead_letter(bus.bus, seq)).to_json(with_data=True))


@dead.command(
    short_help="Publish dead letters to their agents again.",
    epilog="""\b
Examples:
  agentbus dead requeue 17 18 --config admin.toml""",
)
@_seqs
@with_administrator
async def requeue(bus: "Coordinator", *, seqs: tuple[int, ...]) -> None:
    """Publish dead letters to their agents again, once the reason for refusing them is fixed."""
    agents: set[str] = set()
    for seq in seqs:
        letter = await lazy.dead_letters.requeue(bus.bus, seq)
        if letter.agent not in agents:
            await warn_without_worker(bus, letter.agent)
            agents.add(letter.agent)
        output.json_line({"seq": seq, "requeued_for": letter.agent})


@dead.command(
    epilog="""\b
Examples:
  agentbus dead drop 17 18 --config admin.toml""",
)
@_seqs
@with_administrator
async def drop(bus: "Coordinator", *, seqs: tuple[int, ...]) -> None:
    """Delete dead letters for good."""
    for seq in seqs:
        await lazy.dead_letters.drop(bus.bus, seq)
        output.json_line({"seq": seq, "dropped": True})
