"""`agentbus result`: read the result inbox of an agent."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentbus.cli import output
from agentbus.cli.options import AgentId, TaskId, bus_options, coordinator, run

if TYPE_CHECKING:
    from agentbus.tasks.inbox import InboxMessage


@click.group()
def result() -> None:
    """Read results."""


@result.command(
    "get",
    epilog="""\b
Examples:
  agentbus result get --agent main
  agentbus result get --agent main --limit 20 | jq -r .result
  agentbus result get --agent main --limit 5 --watch
  agentbus result get --full task-20260518-k3v9… > report.txt

\b
Each line is a stored message, unchanged. What cannot be one line of JSON stands under the key "agentbus".""",
)
@click.option("--agent", metavar="ID", type=AgentId(), help="Whose inbox; the coordinator's is main.")
@click.option("--limit", type=click.IntRange(min=0), default=1, show_default=True, help="How many of the newest.")
@click.option("--watch", is_flag=True, help="Go on with new ones as they come, until interrupted.")
@click.option(
    "--full",
    "task_id",
    metavar="ID",
    type=TaskId(),
    help="Print the whole output of this task instead, however large: the bytes that the agent printed.",
)
@bus_options
def get(
    agent: str | None, limit: int, task_id: str | None, nats_url: str | None, config: Path | None, *, watch: bool
) -> None:
    """Print the newest results of an inbox, oldest first, one JSON line each. Reading never removes anything.

    With --full, print the whole output of one task; --agent then is the agent that it was given to, if several have
    this task id.
    """
    if task_id is not None:
        run(_full(task_id, agent, nats_url, config))
    elif agent is None:
        raise click.UsageError("Missing option '--agent'.", click.get_current_context())
    else:
        run(_get(agent, limit, nats_url, config, watch=watch))


async def _full(task_id: str, agent: str | None, nats_url: str | None, config: Path | None) -> None:
    async with coordinator(nats_url, config) as bus:
        async for piece in bus.output(task_id, agent=agent):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


async def _get(agent: str, limit: int, nats_url: str | None, config: Path | None, *, watch: bool) -> None:
    async with coordinator(nats_url, config) as bus, bus.inbox(newest=limit, agent=agent) as inbox:
        for message in await inbox.history():
            _show(message)
        while watch:
            _show(await inbox.next())


def _show(message: "InboxMessage") -> None:
    if not output.on_terminal():
        output.raw_line(_line(message))
    elif message.result is None:
        output.table(["", ""], [["not a result", f"{message.fault} (sequence {message.seq})"]])
    else:
        found = message.result
        output.table(
            ["status", "agent", "task", "completed"],
            [[found.status, found.agent or "?", found.task_id, found.completed_at or ""]],
        )
        for text in (found.error, found.result):
            if text:
                click.echo(output.plain(str(text)))


def _line(message: "InboxMessage") -> bytes:
    """The stored bytes if they are one line of JSON; anything else is described, so that a line always is JSON."""
    from agentbus.errors import MessageError  # noqa: PLC0415
    from agentbus.protocol.json_codec import decode, encode  # noqa: PLC0415

    try:
        value = decode(message.data)
        if isinstance(value, dict) and "agentbus" in value:
            # The key is ours: whoever wrote this message must not be able to speak in our name.
            stored = value.pop("agentbus")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            return encode({**value, "agentbus": {"stored": stored}})
        return encode(value) if b"\n" in message.data or b"\r" in message.data else message.data
    except MessageError:  # not JSON, or nothing that can be written again, such as 1e999
        text = message.data.decode(errors="replace")
        return encode({"agentbus": {"seq": message.seq, "fault": message.fault, "raw": text}})
