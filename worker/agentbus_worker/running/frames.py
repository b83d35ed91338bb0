"""Folds the frames of progress bars: on a terminal each overwrites the one before, from a carriage return on."""

import re
from typing import Final

_OVERWRITTEN: Final = re.compile(rb"(?m)^[^\n]*\r(?=[^\r\n])")
"""What a later part of its line overwrites. A carriage return at the end of a line belongs to the line end."""
_LEAST_BYTES: Final = 4_096
"""A shorter output is read whole in any case, whatever its carriage returns mean."""


def folded(data: bytes) -> bytes:
    """Return lines as a terminal shows them in the end: of each, what follows its last carriage return."""
    return _OVERWRITTEN.sub(b"", data)


class Frames:
    """Folds an output while it is written, for as long as the result has at most `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lines = bytearray()
        self._line = b""
        self._size = 0
        self._begun = self._given_up = False

    def feed(self, chunk: bytes, before: bytearray) -> None:
        """Take a chunk; `before` is all that came before the first one with a carriage return, or its beginning."""
        if self._given_up:
            return
        if not self._begun:
            if b"\r" not in chunk:
                self._size += len(chunk)
                return
            self._begun = True
            if self._size > len(before):  # so long without frames that the end would find no room
                self._give_up()
                return
            self._size = 0
            self._add(bytes(before))
        self._add(chunk)

    def _add(self, chunk: bytes) -> None:
        self._size += len(chunk)
        lines, newline, line = (self._line + chunk).rpartition(b"\n")
        self._lines += folded(lines + newline)
        self._line = folded(line)
        if len(self._lines) + len(self._line) > self._max_bytes:
            self._give_up()

    def _give_up(self) -> None:
        self._given_up = True
        self._lines.clear()
        self._line = b""

    def result(self) -> bytes | None:
        """Return the whole output without its frames, if most of it are frames, and it is text; else None."""
        if self._given_up or not self._begun or self._size <= _LEAST_BYTES:
            return None
        whole = bytes(self._lines) + self._line
        if 2 * len(whole) > self._size:
            return None
        try:
            whole.decode()
        except UnicodeDecodeError:
            return None
        return whole
