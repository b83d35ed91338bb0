"""Makes and prints tables for a terminal."""

from collections.abc import Mapping, Sequence

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


_LEAST_NAME = 16
"""How wide a column of names is, beside numbers; longer names are folded."""
_BETWEEN = 2
"""The blanks between two columns."""


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    with writing():
        Console().print(make_table(columns, rows))


def print_figures(
    name: str, columns: Sequence[str], rows: Sequence[tuple[str, Mapping[str, str]]], importance: Sequence[str]
) -> None:
    """Print a table of numbers by name, with as many columns as the terminal has room for.

    Args:
        name: the title of the first column.
        rows: the name of each, and its numbers by column. A column without any is left out.
        importance: the columns, the most important first.
    """
    with writing():
        console = Console()
        longest = max((len(title) for title, _ in rows), default=0)
        left, shown = console.width - min(longest, _LEAST_NAME) - 2 * _BETWEEN, set[str]()
        for column in importance:
            width = max(len(column), *(len(cells.get(column, "")) for _, cells in rows), 0) + _BETWEEN
            if any(cells.get(column) for _, cells in rows) and width <= left:
                shown.add(column)
                left -= width
        kept = [column for column in columns if column in shown]
        table = make_table([name, *kept], [[title, *(cells.get(one, "") for one in kept)] for title, cells in rows])
        for column in table.columns[1:]:
            column.justify, column.no_wrap = "right", True
        console.print(table)


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Make a table. No cell can act on the terminal or hide anything, and known words are coloured."""
    shown = harmless(title) if title else None
    made = Table(box=box.SIMPLE, header_style="bold", title=shown, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(harmless(cell, style_of(cell)) for cell in row))
    return made


def style_of(cell: str) -> str:
    """Return the style of a cell that is a known word."""
    return _STYLES.get(cell.partition(" (")[0], "")  # a state may have the code of its failure behind it


def harmless(text: str, style: str = "") -> Text:
    """Return text of another party for a table: it is shown as it is, and markup in it means nothing."""
    return Text(visible(text), style=style)
