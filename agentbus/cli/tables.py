"""Makes and prints tables for a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentbus.cli.output import plain

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


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    Console().print(make_table(columns, rows))


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """Make a table. Cells lose their control characters, and known words are coloured."""
    made = Table(box=box.SIMPLE, header_style="bold", title=title, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(plain(cell), style=_STYLES.get(cell, "")) for cell in row))
    return made
