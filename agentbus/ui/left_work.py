"""What a task has left, for the page: its patch as lines that a person reads, and its files as they are."""

import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from agentbus.coordinator import Coordinator
from agentbus.protocol.work.results import PATCH
from agentbus.tasks.work.artifacts import artifact_named, read_artifact
from agentbus.ui.rows import Row, known
from agentbus.visible_text import visible

if TYPE_CHECKING:
    from agentbus.protocol.json_codec import Json

PATCH_LINES: Final = 2_000
"""Of a patch that the page shows: more is read in an editor."""
_PATCH_BYTES: Final = 1 << 20
_LINE_CHARS: Final = 1_000


async def patch_lines(bus: Coordinator, name: str) -> Row:
    """Read the patch of a task as lines; `cut` where there is more of it.

    Raises:
        WorkError, NotSettledError, FileMissingError, CorruptFileError: there is none, or it cannot be read.
    """
    decoder, text, cut = codecs.getincrementaldecoder("utf-8")("backslashreplace"), "", False
    async with aclosing(bus.task(name).artifact(PATCH)) as pieces:
        async for piece in pieces:
            text += decoder.decode(piece)
            if len(text) > _PATCH_BYTES or text.count("\n") > PATCH_LINES:
                cut = True
                break
    found = text.split("\n")
    if found and not found[-1]:
        found.pop()
    lines: list[Json] = [_visible(one) for one in found[:PATCH_LINES]]
    return known(lines=lines, cut=True if cut or len(found) > PATCH_LINES else None)


def _visible(text: str) -> str:
    """Keep the blanks that a patch begins its lines with, and show all else that is hidden."""
    return visible(text[:_LINE_CHARS]) + ("…" if len(text) > _LINE_CHARS else "")


async def file_pieces(bus: Coordinator, name: str, file: str) -> tuple[int, AsyncGenerator[bytes]]:
    """Return the size of a file that a task has left, and its content in pieces.

    Raises:
        WorkError, NotSettledError: there is no such file.
    """
    status = await bus.task(name).status()
    artifact = artifact_named(status, file)
    return artifact.bytes, read_artifact(bus.bus, status, artifact)
