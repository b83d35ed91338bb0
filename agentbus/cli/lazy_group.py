"""Imports commands when they are run, so that help, usage errors and completion stay fast."""

from importlib import import_module
from typing import cast

import click


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


class LazyGroup(click.Group):
    """A group that loads its lazy commands only to run them or to complete their arguments."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Replace a lazy command by the command itself, which is about to parse the rest of the line."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
