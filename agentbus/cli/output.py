"""What the commands print: JSON lines in a pipe, tables on a terminal, remarks on stderr."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table


def on_terminal() -> bool:
    """Whether a person reads the output."""
    return sys.stdout.isatty()


def json_line(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    from agentbus.protocol.json_codec import encode  # noqa: PLC0415

    raw_line(encode(value))


def raw_line(data: bytes) -> None:
    """Print bytes as one line, unchanged, at once."""
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people."""
    from rich.console import Console  # noqa: PLC0415

    Console().print(make_table(columns, rows))


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> "Table":
    """A table for people."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=box.SIMPLE, header_style="bold", title=title, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(plain(cell), style=_STYLES.get(cell, "")) for cell in row))
    return made


_STYLES = {
    "completed": "green",
    "made": "green",
    "updated": "green",
    "working": "cyan",
    "queued": "cyan",
    "needs_approval": "yellow",
    "different": "yellow",
    "none alive": "yellow",
    "failed": "red",
    "cancelled": "red",
}


def plain(text: str) -> str:
    """Text from outside as a terminal may show it: no escape sequences, no control characters but line breaks."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def remark(text: str) -> None:
    """Say something beside the output, on stderr."""
    click.echo(text, err=True)
