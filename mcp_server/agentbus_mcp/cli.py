"""The `agentbus-mcp` command: one MCP server over standard input and output."""

import logging
import sys
from pathlib import Path

import click

from agentbus.errors import AgentBusError


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  agentbus-mcp                                           the bus of `agentbus up` on this machine
  agentbus-mcp --nats-url nats://bus.example.com:7422    another bus
  agentbus-mcp --config ~/.agentbus/team.toml            a bus with credentials
  claude mcp add agentbus -- uvx agentbus-mcp            in Claude Code
  codex mcp add agentbus -- uvx agentbus-mcp             in Codex""",
)
@click.option(
    "--nats-url",
    metavar="URL",
    help="The bus, e.g. nats://host:4222 or tls://host:4222. Put a password into a file instead (see --config).",
)
@click.option(
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration of the coordinator; default: $AGENTBUS_NATS_URL, ~/.agentbus/coordinator.toml, "
    "then the local bus of `agentbus up`.",
)
@click.version_option(package_name="agentbus-mcp", prog_name="agentbus-mcp")
def command(nats_url: str | None, path: Path | None) -> None:
    """Give tasks to agents on other machines, and get their results, from any MCP client.

    Speaks MCP on standard input and output; log lines go to standard error. The server starts without a bus and
    connects as soon as there is one.
    """
    from agentbus.config import connection_settings, load_coordinator  # noqa: PLC0415  # --help needs none of it

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="agentbus-mcp: %(message)s")
    logging.getLogger("mcp").setLevel(logging.WARNING)
    config, warnings = load_coordinator(nats_url=nats_url, path=path)
    settings = connection_settings(config.nats, agent=config.coordinator.id, name="agentbus-mcp", reconnect_wait_s=1)
    for warning in warnings:
        logging.getLogger("agentbus.mcp").warning("%s", warning)

    from agentbus_mcp.stdio import serve  # noqa: PLC0415

    serve(settings, config.coordinator.id)


def main() -> None:
    """Run the server. A configuration that cannot be used is one line on stderr and exit code 1."""
    try:
        command(prog_name="agentbus-mcp")
    except AgentBusError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
