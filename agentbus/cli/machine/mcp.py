"""`agentbus mcp`: the MCP server in the configuration of MCP hosts, and its tokens over HTTP."""

from pathlib import Path

import click

from agentbus.cli import lazy
from agentbus.cli.machine.mcp_token import token
from agentbus.cli.options import config_option, nats_url_option
from agentbus.cli.output import line, remark
from agentbus.provision.mcp_host_files import HOSTS, Host, alone, entry, program, shared_program, write_entry


@click.group()
def mcp() -> None:
    """Configure the MCP server `agentbus-mcp`, and who may use it."""


mcp.add_command(token)


@mcp.command(
    "config",
    short_help="Print, or write, the entry for an MCP host.",
    epilog="""\b
Examples:
  agentbus mcp config --host claude-desktop
  agentbus mcp config --host codex --write
  agentbus mcp config --host vscode --project . --write
  agentbus mcp config --host cursor --config ~/.agentbus/team.toml --write

\b
Passwords and tokens stay in the file that --config names, or in the files that it names; an entry never holds one.
Without --config and --nats-url, the server finds ~/.agentbus/coordinator.toml by itself.""",
)
@click.option("--host", "name", type=click.Choice(list(HOSTS)), required=True, help="Which host.")
@click.option("--write", is_flag=True, help="Put the entry into the host's file; what else is there is kept.")
@click.option(
    "--project",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="For all who work in this project, with uvx, instead of for this user.",
)
@nats_url_option
@config_option("Configuration of the coordinator that the server reads.")
def config_(name: str, project: Path | None, nats_url: str | None, config: Path | None, *, write: bool) -> None:
    """Print the entry that makes a host start `agentbus-mcp`, or write it into the host's file."""
    host = HOSTS[name]
    file = _file(name, host, project)
    if nats_url and config:
        raise click.UsageError("--nats-url and --config exclude each other: a file names the bus as well")
    if config is not None:
        config = lazy.home.in_home(config).absolute()
        lazy.loading.load_coordinator(path=config)  # reports a mistake here, not when the host starts the server
    made = entry(host, shared_program() if project else program(), config=config, nats_url=nats_url)
    if not write:
        line(alone(host, made).removesuffix("\n"))
        remark(f"this belongs into {file}; --write puts it there")
        return
    remark(f"{file}: {write_entry(file, host, made)}")


def _file(name: str, host: Host, project: Path | None) -> Path:
    if project is None:
        return host.user_file()
    if host.project is None:
        raise click.UsageError(f"{name} has no servers of a project; leave out --project")
    return project / host.project
