"""Prints for commands: JSON lines into a pipe, tables to a terminal, remarks to stderr."""

from collections.abc import Sequence
from typing import Any

from agentbus import terminal
from agentbus.cli import lazy
from agentbus.terminal import Styled, line, on_terminal

__all__ = ["Styled", "json_line", "line", "on_terminal", "raw_line", "remark", "table"]


def json_line(value: Any) -> None:
    """Print a value as one line of JSON, and flush."""
    terminal.json_line(lazy.json_codec.encode(value))


def raw_line(data: bytes) -> None:
    """Print JSON that is one line, unchanged in a pipe, and flush."""
    terminal.json_line(data)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    lazy.tables.print_table(columns, rows)


def remark(text: str) -> None:
    """Print something beside the output, on stderr."""
    terminal.error_line(text)
