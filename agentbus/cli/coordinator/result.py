"""`agentbus result`: read the result inbox of an agent."""

from functools import partial
from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import TaskName, agent_option, bus_options, limit_option
from agentbus.terminal import RawOutput
from agentbus.visible_text import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.coordinator import Coordinator
    from agentbus.tasks.inbox import InboxMessage


@click.group()
def result() -> None:
    """Read results."""


@result.command(
    "get",
    short_help="Print the newest results of an inbox.",
    epilog="""\b
Examples:
  agentbus result get
  agentbus result get --limit 20 | jq -r .result
  agentbus result get --agent main --limit 5 --watch
  agentbus result get task-20260518-k3v9… > report.txt

\b
Each line is a stored message, as it is stored but for U+0085, U+2028 and U+2029, which are escaped: some
readers end a line there. A message that is not JSON is printed under the key "agentbus".""",
)
@agent_option("The owner of the inbox; default: your own. With ID: the agent that has the task.")
@limit_option("How many of the newest.", default=1, least=0)
@click.option("--watch", is_flag=True, help="Then print new ones as they arrive, until interrupted.")
@click.option(
    "--full",
    "task_id",
    metavar="ID",
    type=TaskName(),
    help="Print the whole output of this task instead: the bytes that the agent printed, however many.",
)
@click.argument("named", metavar="[ID]", type=TaskName(), required=False)
@bus_options
def get(
    agent: str | None,
    limit: int,
    task_id: str | None,
    named: str | None,
    nats_url: str | None,
    config: "Path | None",
    *,
    watch: bool,
) -> None:
    """Print the newest results of an inbox, oldest first, one JSON line each. Reading never removes anything.

    With ID, print the whole output of that task, as with --full; --agent is needed then if several agents have a task
    with this id.
    """
    if named is not None and task_id is not None:
        raise click.UsageError("ID and --full exclude each other.", click.get_current_context())
    task_id = task_id or named
    if task_id is not None and watch:
        raise click.UsageError("--full and --watch exclude each other.", click.get_current_context())
    if task_id is not None:
        command = partial(_print_output, task_id=task_id, agent=agent)
    else:
        command = partial(_print_inbox, agent=agent, limit=limit, watch=watch)
    lazy.session.run_connected(nats_url, config, command)


async def _print_output(bus: "Coordinator", *, task_id: str, agent: str | None) -> None:
    raw = RawOutput()
    async for piece in bus.task(task_id, agent=agent).output():
        raw.write(piece)
    raw.close()


async def _print_inbox(bus: "Coordinator", *, agent: str | None, limit: int, watch: bool) -> None:
    async with bus.inbox(newest=limit, agent=agent) as inbox:
        for message in await inbox.history():
            _show(message)
        while watch:
            _show(await inbox.next())


def _show(message: "InboxMessage") -> None:
    if message.forgery is not None:
        output.remark(f"warning: the message {message.seq} is no result of its task: {message.forgery}")
    if not output.on_terminal():
        output.raw_line(lazy.inbox_line.inbox_line(message))
    elif message.result is None:
        output.line(f"not a result: {one_line(str(message.fault))} (sequence {message.seq})")
    else:
        found = message.result
        status = f"{found.status} ({found.failure.code})" if found.failure else found.status
        ended = lazy.fitted_table.moment(found.completed_at)
        ago = f"  {lazy.fitted_table.since(ended)} ago" if ended else ""
        colour = lazy.fitted_table.colour_of(status)
        named = output.Styled(one_line(found.task_id), bold=True)
        output.line(named, "  ", output.Styled(status, colour), f"  {one_line(found.agent or '?')}{ago}")
        for text in (found.error, found.result, found.remark and f"({found.remark})"):
            if text:
                output.said_line(str(text))
