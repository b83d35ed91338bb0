"""Imports commands when they are run, so that help, usage errors and completion stay fast."""

from importlib import import_module
from typing import ClassVar, cast

import click

from agentbus.cli.guessed_names import meant_by


class LazyCommand(click.Command):
    """Stands in its group for a command of another module: its name and short help, without importing it."""

    def __init__(self, name: str, import_path: str, short_help: str) -> None:
        """Make a stand-in for the command at `import_path` ("module:attribute"), which `load` imports."""
        super().__init__(name, short_help=short_help)
        self._import_path = import_path

    def load(self) -> click.Command:
        """Import the command, and return it."""
        module, _, attribute = self._import_path.partition(":")
        return cast("click.Command", getattr(import_module(module), attribute))


class CommandGroup(click.Group):
    """A group that names the command that was meant where another program has another name for it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the line names."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if (meant := meant_by(ctx.command_path, args[0])) is None:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. {meant}", ctx) from None


class AliasGroup(CommandGroup):
    """A group of which some commands have another name, too, under which other programs have them.

    Attributes:
        aliases: the names of commands, by the other names; help does not list those.
    """

    aliases: ClassVar[dict[str, str]] = {"show": "get", "reply": "answer"}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by either of its names."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))


class LazyGroup(CommandGroup):
    """A group that loads its lazy commands only to run them or to complete their arguments."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Replace a lazy command by the command itself, which is about to parse the rest of the line."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
