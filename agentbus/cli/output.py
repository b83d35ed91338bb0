"""Prints for commands: JSON lines into a pipe, tables to a terminal, remarks to stderr."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from agentbus.cli import lazy


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def json_line(value: Any) -> None:
    """Print a value as one line of JSON, and flush."""
    raw_line(lazy.json_codec.encode(value))


def raw_line(data: bytes) -> None:
    """Print bytes as one line, unchanged, and flush."""
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    lazy.tables.print_table(columns, rows)


def plain(text: str) -> str:
    """Replace control characters except line breaks: text of another party must not control the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def remark(text: str) -> None:
    """Print something beside the output, on stderr."""
    click.echo(text, err=True)
