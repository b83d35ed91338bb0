"""Command groups that import a command when it is run, so that help, usage errors and completion stay fast."""

from importlib import import_module
from typing import cast

import click


class LazyCommand(click.Command):
    """Stands in its group for a command of another module: its name and short help, without importing it."""

    def __init__(self, name: str, home: str, short_help: str) -> None:
        """Name the command `home` ("module:attribute"), whose module is imported by `load`."""
        super().__init__(name, short_help=short_help)
        self._home = home

    def load(self) -> click.Command:
        """Import the command itself."""
        module, _, attribute = self._home.partition(":")
        return cast("click.Command", getattr(import_module(module), attribute))


class LazyGroup(click.Group):
    """A group that loads its lazy commands only to run them or to complete their arguments."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Replace a lazy command by the command itself, which is about to parse the rest of the line."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
