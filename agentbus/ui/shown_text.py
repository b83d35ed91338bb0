"""Makes text of others fit for the page: bounded, and with nothing hidden in it: a person sees what is there."""

from typing import Final

from agentbus.protocol.json_codec import Json, encode
from agentbus.visible_text import one_line, visible

LINE_CHARS: Final = 240
"""Of a line in a list: more than a wide screen shows."""
PREVIEW_CHARS: Final = 20_000
"""Of a prompt or an answer, until a person asks for all of it: some ten screens."""
WHOLE_CHARS: Final = 4_000_000
"""Of what is shown when all is asked for: a browser lays out no more in reasonable time."""


def line(text: str, most: int = LINE_CHARS) -> str:
    """Return a text on one line, cut where it is too long."""
    begins = text.lstrip()[: most + 1]
    shown = one_line(" ".join(begins.split()))
    return shown if len(begins) <= most else f"{shown[:most]}…"


def as_text(value: Json) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else encode(value).decode()


def block(value: Json, most: int = PREVIEW_CHARS) -> dict[str, Json]:
    """Return a text of several lines, or any other value as JSON; with `chars`, its length, where it is cut."""
    text = as_text(value)
    if len(text) <= most:
        return {"text": visible(text)}
    return {"text": visible(text[:most]), "chars": len(text)}
