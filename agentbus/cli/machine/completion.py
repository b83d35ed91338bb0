"""`agentbus completion`: tab completion for shells."""

import click
from click.shell_completion import get_completion_class

from agentbus.cli.output import line


@click.command(
    epilog="""\b
Examples:
  agentbus completion bash >> ~/.bashrc
  agentbus completion zsh >> ~/.zshrc
  agentbus completion fish > ~/.config/fish/completions/agentbus.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script for tab completion. SHELL then completes commands, options and arguments."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"there is no completion for {shell}")
    line(kind(context.find_root().command, {}, "agentbus", "_AGENTBUS_COMPLETE").source())
