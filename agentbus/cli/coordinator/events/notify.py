"""`agentbus notify`: send each event of the coordinator's own tasks to a command or a URL."""

from typing import TYPE_CHECKING, Literal

import click

from agentbus.cli import lazy
from agentbus.cli.coordinator.events.watch import topics_option
from agentbus.cli.options import FILE, AgentId, Duration, agents_option, bus_options

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    short_help="Send each event of the own tasks to a command or a URL.",
    epilog="""\b
Examples:
  agentbus notify --exec "notify-send --app-name agentbus -- agentbus 'Look at agentbus status'"
  agentbus notify --exec ~/bin/tell-me --on failed,asks
  agentbus notify --url-file ~/.agentbus/chat-url
  agentbus notify --url-file ~/.agentbus/ntfy-url --body text --install

\b
Each event is one line of JSON on the standard input of the command, or the body of a POST. It holds ids and states,
and no text of an agent. Exit code 0, or a status from 200 to 299, says that it was taken; what is not taken is sent
again after 2 s and then more, up to 10 minutes.""",
)
@click.option("--exec", "command", metavar="COMMAND", help="Run this for each event, without a shell.")
@click.option("--url", metavar="URL", help="Post each event here. Others on this machine can see it; see --url-file.")
@click.option("--url-file", type=FILE, metavar="FILE", help="The same, with the URL on the first line of FILE.")
@click.option(
    "--body",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    help="What is posted: JSON, whose `text` chats show, or the line alone.",
)
@topics_option
@agents_option("Only events of this agent")
@click.option("--owner", metavar="ID", type=AgentId(), help="The coordinator that owns the tasks; default: this one.")
@click.option("--timeout", "timeout_s", type=Duration(), default="30s", show_default=True, help="For one delivery.")
@click.option(
    "--give-up-after", "give_up_s", type=Duration(), default="24h", show_default=True, help="An event is sent no more."
)
@click.option(
    "--state",
    type=FILE,
    metavar="FILE",
    help="Where it is kept how far this has come; default: a file for each target in ~/.agentbus/notify.",
)
@click.option("--install", is_flag=True, help="Make a service of this user, and start it.")
@click.option("--print", "print_only", is_flag=True, help="Print the unit of that service, and change nothing.")
@click.option(
    "--manager",
    type=click.Choice(["systemd-user", "launchd"]),
    help="What runs the service.  [default: launchd on macOS, else the user manager of systemd]",
)
@bus_options
def notify(  # noqa: PLR0913, PLR0917  # an argument for each option
    command: str | None,
    url: str | None,
    url_file: "Path | None",
    body: Literal["json", "text"],
    topics: tuple[str, ...],
    agents: tuple[str, ...],
    owner: str | None,
    timeout_s: float,
    give_up_s: float,
    state: "Path | None",
    manager: Literal["systemd-user", "launchd"] | None,
    nats_url: str | None,
    config: "Path | None",
    *,
    install: bool,
    print_only: bool,
) -> None:
    """Send each event of the own tasks to a command or a URL: a task is settled or asks, a worker is gone.

    The first run begins now. A later one begins where that ended: what has happened while this machine was off is sent
    once. Runs until Ctrl-C, over a bus that is away.
    """
    if sum(one is not None for one in (command, url, url_file)) != 1:
        raise click.UsageError("Give one of --exec, --url and --url-file.", click.get_current_context())
    if install or print_only:
        if url is not None:
            raise click.UsageError("A service takes --url-file: its unit is no place for a secret.")
        lazy.notifying.install(command, manager, print_only=print_only)
        return
    target = lazy.notifying.target_of(command, url, url_file, timeout_s, body)
    wanted = lazy.watching.Watched(topics, agents, owner, None, lines=False, session=False)
    lazy.session.run(lazy.notifying.notify(nats_url, config, wanted, target, state, give_up_s))
