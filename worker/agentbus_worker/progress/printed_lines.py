"""Finds the lines that a command has printed since the last look, in what its pipes keep anyway.

Looking costs nothing while a command prints: only the end of an output is kept, and only that is looked at.
"""

from collections.abc import Callable
from typing import Final

from agentbus.protocol.progress.events import MAX_TEXT_CHARS
from agentbus_worker.formats.text import without_escapes

_MOST_BYTES: Final = MAX_TEXT_CHARS


class PrintedLines:
    """The lines of one output.

    Args:
        look: returns how many bytes were printed up to now, and the end of that.

    Attributes:
        left_out: how many bytes were passed over, because there were more than can be told.
    """

    def __init__(self, look: Callable[[], tuple[int, bytes]]) -> None:
        self._look = look
        self._read = 0
        self._size = 0
        self.left_out = 0

    def new(self, *, at_end: bool = False) -> str:
        """Return the newest lines since the last call; empty if there are none.

        A line that has no end yet is waited for, unless nothing was printed since the last call, or it is `at_end`.
        """
        size, tail = self._look()
        stands, self._size = at_end or size == self._size, size
        start = max(self._read, size - min(len(tail), _MOST_BYTES))
        data = tail[len(tail) - (size - start) :]
        if start > self._read:
            # A line that has lost its beginning may have lost what tells that it is a secret.
            begun = _ends(data, data.find) + 1
            data, start = (data[begun:], start + begun) if begun else (b"", size if stands else self._read)
        if not stands:
            data = data[: _ends(data, data.rfind) + 1]
        if not data and not stands:
            return ""
        self.left_out += start - self._read
        self._read = start + len(data)
        return _text(data)


def _ends(data: bytes, find: Callable[[bytes], int]) -> int:
    """Return where a line ends, or a frame of a progress bar, which may go on for long without an end of line."""
    return find(b"\n") if b"\n" in data else find(b"\r")


def _text(data: bytes) -> str:
    """Return lines as they look on a terminal: without colours, and of a progress bar its last frame."""
    lines = without_escapes(data.decode(errors="replace")).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines).strip("\n")
