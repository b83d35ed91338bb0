"""Lays tables out for the width of a terminal: what is copied is never folded or cut, the rest is, or is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from agentbus.cli.tables import style_of
from agentbus.terminal import writing
from agentbus.visible_text import one_line

_BETWEEN: Final = 2
"""The blanks between two columns."""
_BESIDE: Final = 24
"""Columns that stand beside the first one have this much room at least; on a narrower terminal they stand below it."""
_LEAST: Final = 10
"""How narrow a column of a plain table becomes before it is left out."""
_MOST: Final = 1_000
"""No cell is wider than this."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        importance: columns with a smaller number get their room first.
        least: how wide a column is that may be cut; None of one that never is. A first column is cut to the terminal.
    """

    title: str
    importance: int
    least: int | None = None


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is whole; the others are cut where there is no room, the last ones first."""
    columns = [Column(title, at, _LEAST if at else None) for at, title in enumerate(titles)]
    cells = [[cell.replace("\n", "; ") for cell in row] for row in rows]
    print_fitted(columns, [dict(zip(titles, row, strict=True)) for row in cells])


def print_figures(
    name: str,
    order: Sequence[str],
    rows: Sequence[tuple[str, Mapping[str, str]]],
    importance: Sequence[str],
    *,
    copied: bool,
) -> None:
    """Print a table of numbers by name, with as many columns as the terminal has room for.

    Args:
        name: the title of the first column.
        copied: whether names are ids, which are never cut.
        order: the columns of numbers, from left to right.
        rows: the name of each, and its numbers by column. A column without any is left out.
        importance: the columns, the most important first.
    """
    widths = {one: max(len(one), *(len(cells.get(one, "")) for _, cells in rows), 0) for one in order}
    shown = [one for one in order if any(cells.get(one) for _, cells in rows)]
    first = Column(name, 0, None if copied else _LEAST)
    columns = [first, *(Column(one.rjust(widths[one]), 1 + importance.index(one)) for one in shown)]
    print_fitted(
        columns,
        [
            {name: title, **{one.rjust(widths[one]): cells.get(one, "").rjust(widths[one]) for one in shown}}
            for title, cells in rows
        ],
    )


def print_fitted(columns: Sequence[Column], rows: Sequence[Mapping[str, str]], empty: str = "none") -> None:
    """Print a table; see `fitted`."""
    with writing():
        console = Console()
        console.print(fitted(columns, rows, console.width, empty), soft_wrap=True)


def fitted(columns: Sequence[Column], rows: Sequence[Mapping[str, str]], width: int, empty: str = "none") -> Text:
    """Lay a table out: the first column is whole, of the others as many are shown as there is room for.

    Args:
        rows: the cells by the titles of their columns. A column without any is left out.
        empty: what stands there if there are no rows.
    """
    return Text("\n", no_wrap=True).join(fitted_lines(columns, rows, width, empty))


def fitted_lines(
    columns: Sequence[Column], rows: Sequence[Mapping[str, str]], width: int, empty: str = "none"
) -> list[Text]:
    """Return the same as the title and each row, which are two lines where there is no room beside the first column."""
    if not rows:
        return [Text(empty, style="dim")]
    shown = [{title: one_line(cell[:_MOST]) for title, cell in row.items()} for row in rows]
    first, *others = [column for column in columns if any(row.get(column.title) for row in shown)]
    if first.least is not None:
        most = max(first.least, width)
        shown = [{**row, first.title: _cut(row.get(first.title, ""), most).rstrip()} for row in shown]
    whole, widths = _layout(first, others, shown, width)
    lines = [_row({one.title: one.title for one in columns}, first.title, whole, widths, head=True)]
    lines += [_row(row, first.title, whole, widths) for row in shown]
    return lines


def _layout(
    first: Column, others: Sequence[Column], rows: Sequence[Mapping[str, str]], width: int
) -> tuple[int, dict[str, int]]:
    """Return how wide the first column is, 0 where the others stand below it, and how wide those are that are shown."""
    natural = {column.title: _natural(column.title, rows) for column in (first, *others)}
    left = width - natural[first.title] - _BETWEEN
    all_others = sum(natural[one.title] + _BETWEEN for one in others) - _BETWEEN
    whole = natural[first.title] if left >= min(_BESIDE, all_others) else 0
    found = _widths(others, natural, left if whole else width - _BETWEEN)
    return whole, {one.title: found[one.title] for one in others if one.title in found}


def _natural(title: str, rows: Sequence[Mapping[str, str]]) -> int:
    """Return how wide a column is that is not cut."""
    return max(cell_len(title), *(cell_len(row.get(title, "")) for row in rows))


def _row(  # a row, and how it is laid out
    row: Mapping[str, str],
    first: str,
    whole: int,
    widths: Mapping[str, int],
    *,
    head: bool = False,
) -> Text:
    """Lay a row out: on one line where the first column is so wide, on two where that is 0."""
    line = Text(_padded(row.get(first, ""), whole), "bold" if head else "")
    cells = [(_cut(row.get(title, ""), widths[title]), style_of(row.get(title, ""))) for title in widths]
    if cells:
        line.append("  " if whole else "\n  ")
        line.append(Text("  ").join(Text(text, "bold" if head else style) for text, style in cells))
    line.rstrip()
    return line


def _widths(columns: Sequence[Column], natural: Mapping[str, int], room: int) -> dict[str, int]:
    """Return how wide each column is that is shown: first the least of each, then what is left for those cut."""
    found: dict[str, int] = {}
    for column in sorted(columns, key=lambda one: one.importance):
        whole = natural[column.title]
        needed = whole if column.least is None else min(whole, column.least)
        if needed <= room:
            found[column.title] = needed
            room -= needed + _BETWEEN
    room += _BETWEEN
    for column in sorted(columns, key=lambda one: one.importance):
        if column.title in found:
            more = min(max(0, room), natural[column.title] - found[column.title])
            found[column.title] += more
            room -= more
    return found


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - cell_len(text))


def _cut(text: str, width: int) -> str:
    return _padded(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def terminal_width() -> int:
    """Return how many columns standard output has."""
    return Console().width


def colour_of(cell: str) -> str | None:
    """Return the colour of a cell that is a known word."""
    return style_of(cell) or None


def ago(now: datetime, then: datetime | None) -> str:
    """Write how long something is past: `8 s`, `12 min`; nothing of what is not known."""
    return "" if then is None else duration((now - then.astimezone(UTC)).total_seconds())


def since(then: datetime) -> str:
    """Write how long something is past now."""
    return ago(datetime.now(UTC), then)


def duration(seconds: float) -> str:
    """Write a time in its largest unit."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def moment(text: str | None) -> datetime | None:
    """Read a time that another party wrote; None if it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    except (ValueError, OverflowError):
        return None
