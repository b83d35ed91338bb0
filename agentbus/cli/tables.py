"""The colours of known words on a terminal, and how text of others is shown there."""

from rich.text import Text

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


def style_of(cell: str) -> str:
    """Return the style of a cell that is a known word."""
    return _STYLES.get(cell.partition(" (")[0], "")  # a state may have the code of its failure behind it


def harmless(text: str, style: str = "") -> Text:
    """Return text of another party for a table: it is shown as it is, and markup in it means nothing."""
    return Text(visible(text), style=style)
