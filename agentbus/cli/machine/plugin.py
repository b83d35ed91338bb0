"""`agentbus plugin`: one plugin folder for Claude Code, Codex, Gemini CLI and others."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy
from agentbus.cli.options import FOLDER, config_option
from agentbus.cli.output import line, remark

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def plugin() -> None:
    """Make the plugin that brings agentbus into agent hosts."""


@plugin.command(
    short_help="Make the plugin folder, or bring it up to date.",
    epilog="""\b
Examples:
  agentbus plugin build ~/agentbus-plugin
  agentbus plugin build ~/agentbus-plugin --config ~/.agentbus/team.toml
  agentbus plugin build dist/plugin --portable

\b
Then, for instance:
  claude plugin marketplace add ~/agentbus-plugin && claude plugin install agentbus@agentbus
  codex plugin marketplace add ~/agentbus-plugin && codex plugin add agentbus@agentbus
  gemini extensions install ~/agentbus-plugin""",
)
@click.argument("folder", metavar="FOLDER", type=FOLDER)
@click.option("--portable", is_flag=True, help="Start the server with uvx on whichever machine, not this installation.")
@config_option("Configuration of the coordinator that server and monitor read.")
def build(folder: "Path", config: "Path | None", *, portable: bool) -> None:
    """Make a plugin with the MCP server, the skill, and a monitor that wakes an idle Claude Code session.

    One folder serves all hosts. Building again brings it up to date; a folder with anything else in it is refused.
    """
    bus: list[str] = []
    if config is not None:
        config = lazy.home.in_home(config).absolute()
        lazy.loading.load_coordinator(path=config)  # reports a mistake here, not when a host starts the server
        bus = ["--config", str(config)]
    commands = lazy.plugin_files.portable(bus) if portable else lazy.plugin_files.of_this_installation(bus)
    target = lazy.home.in_home(folder).absolute()
    remark(f"{target}: {lazy.plugin_folder.build(target, commands)}")
    line(str(target))
