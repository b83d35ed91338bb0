"""Shows a patch of an agent on a terminal: in colours, bounded, and with nothing that acts on the terminal."""

import codecs
from collections.abc import AsyncIterable
from typing import Final

from agentbus.terminal import Styled, line

MAX_LINE_CHARS: Final = 1_000
"""Of one line that is shown: a line of minified code says nothing to a person."""
_HEADS: Final = ("diff --git ", "index ", "new file ", "deleted file ", "old mode ", "new mode ", "rename ", "copy ",
                 "similarity ", "dissimilarity ", "--- ", "+++ ", "GIT binary patch", "Binary files ")  # fmt: skip


async def show_patch(pieces: AsyncIterable[bytes], most_lines: int | None = None) -> int:
    """Print a patch for a person; return how many lines were left out, of those after `most_lines`.

    It is read to its end, so that one that is not what its result says is told.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    rest, count = "", 0

    def show(text: str) -> None:
        nonlocal count
        count += 1
        if most_lines is None or count <= most_lines:
            line(_styled(text))

    async for piece in pieces:
        *whole, rest = (rest + decoder.decode(piece)).split("\n")
        for text in whole:
            show(text)
        rest = rest[: MAX_LINE_CHARS + 1]  # the rest of such a line is not shown
    rest += decoder.decode(b"", final=True)
    if rest:
        show(rest)
    return max(0, count - most_lines) if most_lines is not None else 0


def _styled(text: str) -> Styled:
    shown = text if len(text) <= MAX_LINE_CHARS else f"{text[:MAX_LINE_CHARS]} …"
    if text.startswith(_HEADS):
        return Styled(shown, bold=True)
    if text.startswith("@@"):
        return Styled(shown, "cyan")
    colour = {"+": "green", "-": "red"}.get(text[:1])
    return Styled(shown, colour)
