"""`agentbus watch`: print each event of the coordinator's own tasks as it happens."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy
from agentbus.cli.options import FILE, AgentId, agents_option, bus_options

if TYPE_CHECKING:
    from pathlib import Path


class Topics(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic in new versions only
    """Validates a list of topics such as `settled,asks`."""

    name = "TOPICS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the topics."""
        if isinstance(value, tuple):
            return tuple(str(one) for one in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        try:
            return lazy.task_event.topics_of(str(value))
        except ValueError as error:
            self.fail(f"{value!a} {error}", param, ctx)


topics_option = click.option(
    "--on",
    "topics",
    type=Topics(),
    default="settled,asks,lost",
    show_default=True,
    help="Which events: settled (completed, failed or cancelled), failed, asks, lost (a worker is gone or paused).",
)


@click.command(
    short_help="Print each event of the own tasks.",
    epilog="""\b
Examples:
  agentbus watch
  agentbus watch --lines --on failed,asks
  agentbus watch --position ~/.agentbus/seen.json | jq -r .task_id
  agentbus watch --lines --session     what the monitor of the plugin runs

\b
In a pipe each event is one line of JSON, with --lines a line of text. Neither holds a text of an agent.""",
)
@click.option("--lines", is_flag=True, help="Print lines of text in a pipe, too.")
@topics_option
@agents_option("Only events of this agent")
@click.option(
    "--owner", metavar="ID", type=AgentId(), help="The coordinator whose tasks are meant. [default: this one]"
)
@click.option(
    "--position",
    type=FILE,
    metavar="FILE",
    help="Begin behind what was told last, and note in FILE how far this has come.",
)
@click.option(
    "--session",
    is_flag=True,
    help="Only tasks that the MCP server of this session of a host, such as Claude Code, has published; ends with it.",
)
@bus_options
def watch(
    topics: tuple[str, ...],
    agents: tuple[str, ...],
    owner: str | None,
    position: "Path | None",
    nats_url: str | None,
    config: "Path | None",
    *,
    lines: bool,
    session: bool,
) -> None:
    """Print each event of the own tasks as it happens: a task is settled or asks a question, a worker is gone.

    Runs until Ctrl-C, over a bus that is away. Without --position it begins now, with the questions that are open.
    """
    if session and position is not None:
        raise click.UsageError("--session keeps its own position: leave out --position.", click.get_current_context())
    wanted = lazy.watching.Watched(topics, agents, owner, position, lines=lines, session=session)
    lazy.session.run(lazy.watching.watch(nats_url, config, wanted))
