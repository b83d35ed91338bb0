"""`agentbus worker init` and `agentbus coordinator init`: make a configuration from a bundle."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import FILE, FOLDER
from agentbus.errors import ConfigError

if TYPE_CHECKING:
    from agentbus.provision.bundle import Bundle
    from agentbus.provision.join import AgentCommand

_DEFAULT_FOLDER = "~/.agentbus"
_PRESETS = ["claude", "codex", "gemini", "opencode", "qwen", "hermes", "claude-acp", "codex-acp", "gemini-acp",
            "opencode-acp", "qwen-acp", "hermes-acp", "custom"]  # fmt: skip


def _joining_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add `--bundle`, `--folder` and `--renew`."""
    bundle = click.option(
        "--bundle",
        "bundle_file",
        metavar="FILE",
        required=True,
        type=FILE,
        help="What `agentbus agent bundle` or `agentbus coordinator bundle` wrote.",
    )
    folder = click.option(
        "--folder",
        metavar="FOLDER",
        type=FOLDER,
        default=_DEFAULT_FOLDER,
        help=f"Where the configuration and the credential go.  [default: {_DEFAULT_FOLDER}]",
    )
    renew = click.option("--renew", is_flag=True, help="Only replace the credential, after `rotate`.")
    return bundle(folder(renew(command)))


@click.command(
    "init",
    short_help="Make the configuration of a worker from a bundle.",
    epilog="""\b
Examples:
  agentbus worker init --bundle code.bundle --preset claude
  agentbus worker init --bundle code.bundle --command "my-agent --once {input}"
  agentbus worker init --bundle code.bundle --renew""",
)
@click.option(
    "--preset",
    type=click.Choice(_PRESETS),
    help="The agent command; default: the one that is installed here. `custom` takes --command.",
)
@click.option("--command", metavar="WORDS", help="An agent command of your own; {input} becomes the prompt.")
@_joining_options
def worker_init(bundle_file: Path, folder: Path, preset: str | None, command: str | None, *, renew: bool) -> None:
    """Make the configuration of a worker from a bundle. Nothing is overwritten."""
    bundle, folder = _opened(bundle_file, folder)
    if renew:
        _renew(bundle, folder)
        return
    path = lazy.join.join_as_worker(bundle, folder, _command(preset, command))
    default = folder == lazy.home.in_home_if_any(_DEFAULT_FOLDER)
    output.line(f"wrote {path}; {bundle_file} is no longer needed here. Start the worker:")
    output.line("  agentbus worker run" + ("" if default else f" --config {path}"))
    chosen = lazy.agent_presets.PRESETS.get(preset or "")
    if chosen is not None and shutil.which(chosen.executable) is None:
        output.remark(f"warning: {chosen.executable} is not installed here; see agentbus doctor --role worker")


@click.command(
    "init",
    short_help="Make the configuration of a coordinator from a bundle.",
    epilog="""\b
Example:
  agentbus coordinator init --bundle main.bundle""",
)
@_joining_options
def coordinator_init(bundle_file: Path, folder: Path, *, renew: bool) -> None:
    """Make the configuration of a coordinator from a bundle. Nothing is overwritten.

    The commands and the MCP server `agentbus-mcp` find it by themselves if it is in ~/.agentbus.
    """
    bundle, folder = _opened(bundle_file, folder)
    if renew:
        _renew(bundle, folder)
        return
    path = lazy.join.join_as_coordinator(bundle, folder)
    output.line(f"wrote {path}; {bundle_file} is no longer needed here. Try it:")
    default = folder == lazy.home.in_home_if_any(_DEFAULT_FOLDER)
    named = "" if default else f" --config {path}"
    output.line(f"  agentbus agent list{named}")
    output.line(f"and for an MCP host, such as Claude Code:\n  agentbus mcp config --host claude-code{named}")


def _opened(bundle_file: Path, folder: Path) -> tuple["Bundle", Path]:
    return lazy.bundle.read_bundle(bundle_file), lazy.home.in_home(folder).absolute()


def _renew(bundle: "Bundle", folder: Path) -> None:
    for path in lazy.join.renew(bundle, folder):
        output.line(f"replaced {path}")
    output.line("start again what uses it")


def _command(preset: str | None, command: str | None) -> "AgentCommand":
    if command is not None:
        if preset not in (None, "custom"):
            raise ConfigError(f"--command and --preset {preset} exclude each other")
        return lazy.join.custom_command(command)
    if preset == "custom":
        raise ConfigError('--preset custom needs --command, such as --command "my-agent --once {input}"')
    if preset is not None:
        return lazy.join.preset_command(preset)
    installed = lazy.agent_presets.installed()
    if len(installed) != 1:
        found = ", ".join(installed) or "none of those that are known"
        raise ConfigError(f"which agent? Installed here: {found}. Name it with --preset or --command")
    return lazy.join.preset_command(installed[0])
