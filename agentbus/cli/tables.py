"""Makes and prints tables for a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentbus.terminal import writing
from agentbus.visible_text import visible

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
    with writing():
        Console().print(make_table(columns, rows))


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Make a table. No cell can act on the terminal or hide anything, and known words are coloured."""
    shown = harmless(title) if title else None
    made = Table(box=box.SIMPLE, header_style="bold", title=shown, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(harmless(cell, _style_of(cell)) for cell in row))
    return made


def _style_of(cell: str) -> str:
    return _STYLES.get(cell.partition(" (")[0], "")  # a state may have the code of its failure behind it


def harmless(text: str, style: str = "") -> Text:
    """Return text of another party for a table: it is shown as it is, and markup in it means nothing."""
    return Text(visible(text), style=style)
