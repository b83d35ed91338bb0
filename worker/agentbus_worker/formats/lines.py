"""Splits a stream of bytes into lines, in bounded memory."""

from collections.abc import Iterator
from typing import Final

MAX_LINE_BYTES: Final = 8_388_608
"""The longest line that is read: one holds the output of a tool, and agents cut that at far less than a megabyte."""


class Lines:
    """Splits what is fed to it; a line that is too long is passed over, and counted in `skipped`."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._begun = bytearray()
        self._skipping = False
        self.skipped = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield each line that is whole now, without its end."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._add(chunk[start:end])
            start = end + 1
            if self._skipping:
                self._skipping = False
            else:
                yield bytes(self._begun)
            self._begun.clear()
        self._add(chunk[start:])

    def rest(self) -> bytes:
        """Take the last line, which has no end; empty when it is taken again."""
        line = b"" if self._skipping else bytes(self._begun)
        self._begun.clear()
        return line

    def _add(self, part: bytes) -> None:
        if self._skipping:
            return
        if len(self._begun) + len(part) > self._max_bytes:
            self._skipping = True
            self.skipped += 1
            self._begun.clear()
        else:
            self._begun += part
