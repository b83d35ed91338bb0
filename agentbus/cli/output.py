"""What commands print: JSON lines in a pipe, tables on a terminal, remarks on stderr."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from agentbus.cli import lazy


def on_terminal() -> bool:
    """Whether the output goes to a terminal, where a person reads it."""
    return sys.stdout.isatty()


def json_line(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    raw_line(lazy.json_codec.encode(value))


def raw_line(data: bytes) -> None:
    """Print bytes as one line, unchanged, at once."""
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people."""
    lazy.tables.print_table(columns, rows)


def plain(text: str) -> str:
    """Return text from another party as a terminal may show it: without control characters except line breaks."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def remark(text: str) -> None:
    """Print something beside the output, on stderr."""
    click.echo(text, err=True)
