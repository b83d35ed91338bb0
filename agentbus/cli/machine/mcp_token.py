"""`agentbus mcp token`: the named tokens with which a team uses one MCP server over HTTP."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import FILE, output_option

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_FILE = "~/.agentbus/mcp-tokens.toml"
_IS_SHOWN_ONCE = "this token is shown once: the file holds its hash. Every holder of it is this client"

_name = click.argument("name", metavar="NAME")
_file = click.option(
    "--tokens",
    "file",
    metavar="FILE",
    type=FILE,
    default=DEFAULT_FILE,
    help=f"The file that `agentbus-mcp --tokens` reads.  [default: {DEFAULT_FILE}]",
)


@click.group(short_help="Say who may use the MCP server over HTTP.")
def token() -> None:
    """Say who may use the MCP server over HTTP, each as a coordinator of their own.

    A running server takes up changes within two seconds.
    """


@token.command(
    short_help="Make a token for a client, and print it.",
    epilog="""\b
Examples:
  agentbus mcp token add alice --coordinator ~/.agentbus/alice/coordinator.toml
  agentbus-mcp --http 127.0.0.1:8765 --tokens ~/.agentbus/mcp-tokens.toml""",
)
@_name
@click.option(
    "--coordinator",
    metavar="FILE",
    type=FILE,
    required=True,
    help="Configuration of the coordinator that the client is on the bus, with its credential and its inbox.",
)
@_file
def add(name: str, coordinator: "Path", file: "Path") -> None:
    """Make a token for a client, and print it. The file keeps its hash, so it cannot be printed again."""
    _show(lazy.mcp_token_file.add(file, name, coordinator))


@token.command(short_help="Replace the token of a client, and print the new one.")
@_name
@_file
def rotate(name: str, file: "Path") -> None:
    """Replace the token of a client, and print the new one. What is open with the old one is ended."""
    _show(lazy.mcp_token_file.rotate(file, name))


@token.command(short_help="Remove the token of a client.")
@_name
@_file
def remove(name: str, file: "Path") -> None:
    """Remove the token of a client. What is open with it is ended; tasks and results stay."""
    lazy.mcp_token_file.remove(file, name)
    output.remark(f"removed the token of {name}")


@token.command("list", short_help="List the names, without their tokens.")
@_file
@output_option
def list_(file: "Path") -> None:
    """List the names and the configurations of their coordinators. Tokens cannot be shown."""
    tokens = lazy.mcp_tokens.read_tokens(lazy.home.in_home(file))
    if output.tabular():
        output.table(["name", "coordinator"], [[name, str(one.coordinator)] for name, one in tokens.items()])
    else:
        for name, one in tokens.items():
            output.json_line({"name": name, "coordinator": str(one.coordinator)})


def _show(token: str) -> None:
    output.line(token)
    output.remark(_IS_SHOWN_ONCE)
