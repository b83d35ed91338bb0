"""Prints for commands: JSON lines into a pipe, tables to a terminal, remarks to stderr."""

from collections.abc import Sequence
from typing import Any

import click

from agentbus import terminal
from agentbus.cli import lazy
from agentbus.terminal import Styled, line, on_terminal, said_line

__all__ = [
    "Styled",
    "free_slots",
    "json_line",
    "line",
    "on_terminal",
    "raw_line",
    "remark",
    "said_line",
    "table",
    "tabular",
]


FORMAT = "agentbus.cli.output"
"""Where the context of a command keeps what `--output` says."""


def tabular() -> bool:
    """Return whether a list is printed as a table: on a terminal, unless `--output` says otherwise."""
    context = click.get_current_context(silent=True)
    chosen = context.meta.get(FORMAT) if context is not None else None
    return on_terminal() if chosen is None else chosen == "table"


def json_line(value: Any) -> None:
    """Print a value as one line of JSON, and flush."""
    terminal.json_line(lazy.json_codec.encode(value))


def raw_line(data: bytes) -> None:
    """Print JSON that is one line, unchanged in a pipe, and flush."""
    terminal.json_line(data)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the terminal; the first column is never cut."""
    lazy.fitted_table.print_table(columns, rows)


def free_slots(workers: Sequence[dict[str, Any]]) -> str:
    """The free slots of workers, for a table; lost ones are named beside them."""
    free, lost = (sum(worker[name] for worker in workers) for name in ("free", "lost"))
    return f"{free} ({lost} lost)" if lost else str(free)


def remark(text: str) -> None:
    """Print something beside the output, on stderr."""
    terminal.error_line(text)
