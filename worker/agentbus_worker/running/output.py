"""Reads the output of a command: the beginning stays in memory, all of a longer one goes to a file."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agentbus.config.private_files import open_private
from agentbus_worker.running.frames import Frames

TAIL_BYTES: Final = 8_192
"""How much of the end of an output is kept."""
_CHUNK: Final = 65_536


@dataclass(frozen=True, slots=True)
class Output:
    """The output of one pipe: its first bytes, its last bytes, and its size.

    `spilled` is a file with all of it, if it is larger than `head` and could be written. `folded` is all of it without
    the frames of progress bars, if these are most of it.
    """

    head: bytes
    tail: bytes
    size: int
    sha256: str
    spilled: Path | None = None
    folded: bytes | None = None

    @property
    def truncated(self) -> bool:
        """Whether there was more than `head` holds."""
        return self.size > len(self.head)


class OutputPipe:
    """Reads a pipe without blocking. It keeps the beginning in memory, and spills longer output to a file."""

    def __init__(
        self,
        keep_bytes: int,
        spill: tuple[Path, str] | None = None,
        spill_bytes: int = 0,
        on_chunk: Callable[[bytes], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.read_end, self.write_end = os.pipe()
        self._open = self._write_open = True
        self._keep_bytes = keep_bytes
        self._spill_to = spill
        self._spill_bytes = spill_bytes
        self._on_chunk = on_chunk
        self._spill_path: Path | None = None
        self._spill: BinaryIO | None = None
        self._head = bytearray()
        self._tail = bytearray()
        self._frames = Frames(keep_bytes)
        self._size = 0
        self._hash = hashlib.sha256()
        self._watching = self._finished = False
        self.last_read = self._loop.time()

    def watch(self) -> None:
        """Start to read. Until then output stays in the pipe, and a process that fills it blocks."""
        if self._open:
            self._watching = True
            os.set_blocking(self.read_end, False)  # before this, the pipe is read only when it has data
            self._loop.add_reader(self.read_end, self._read)

    def _read(self) -> bool:
        """Read a chunk; returns False if the pipe has no more data now."""
        try:
            chunk = os.read(self.read_end, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._stop_reading()
            return False
        if self._finished:
            return True
        self.last_read = self._loop.time()
        self._hash.update(chunk)
        if self._on_chunk is not None:
            self._on_chunk(chunk)
        self._frames.feed(chunk, self._head)
        room = self._keep_bytes - len(self._head)
        if len(chunk) > room and self._spill_to is not None:
            self._spill_chunk(chunk)
        self._size += len(chunk)
        self._head += chunk[: max(0, room)]
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        return True

    def _spill_chunk(self, chunk: bytes) -> None:
        """Write a chunk to the file. Delete the file if the output is too large or the disk refuses it."""
        try:
            if self._spill is None:
                assert self._spill_to is not None, "checked by the caller"
                folder, name = self._spill_to
                self._spill_path = folder / name
                self._spill = open_private(self._spill_path, truncate=True)
                self._spill.write(self._head)
            if self._size + len(chunk) > self._spill_bytes:
                self._drop_spill()
            else:
                self._spill.write(chunk)
        except OSError:
            self._drop_spill()

    def _drop_spill(self) -> None:
        if self._spill is not None:
            with contextlib.suppress(OSError):
                self._spill.close()
            if self._spill_path is not None:
                with contextlib.suppress(OSError):
                    self._spill_path.unlink(missing_ok=True)
        self._spill = self._spill_path = self._spill_to = None

    def finish(self) -> Output:
        """Read what the ended command left in the pipe, and return the output.

        Later output of its children is discarded until the pipe is closed: without a reader, a child that gets SIGTERM
        would be killed by SIGPIPE during its clean-up.
        """
        end = self._size + (_bytes_in(self.read_end) if self._open else 0)
        while self._open and self._size < end and self._read():
            pass  # no further, because a child that still writes would never let this end
        if self._spill is not None:
            try:
                self._spill.close()
            except OSError:
                self._drop_spill()
        spilled = self._spill_path if self._spill is not None else None
        self._finished = True
        head, tail, sha256 = bytes(self._head), bytes(self._tail), self._hash.hexdigest()
        return Output(head, tail, self._size, sha256, spilled, self._frames.result())

    def close_write_end(self) -> None:
        """Close our copy of the write end, so that only the command and its children have it."""
        if self._write_open:
            self._write_open = False
            os.close(self.write_end)

    def close(self) -> None:
        """Stop reading, and delete the spilled output."""
        self._stop_reading()
        self.close_write_end()
        self._drop_spill()

    def _stop_reading(self) -> None:
        if self._open:
            self._open = False
            if self._watching:
                self._loop.remove_reader(self.read_end)
            os.close(self.read_end)


def _bytes_in(pipe: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
