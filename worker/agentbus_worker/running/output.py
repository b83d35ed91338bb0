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
from agentbus_worker.disk.threads import ANSWER_S, AT_ONCE, DiskThreads
from agentbus_worker.running.frames import Frames

TAIL_BYTES: Final = 8_192
"""How much of the end of an output is kept."""
_CHUNK: Final = 65_536
_OF_NOTHING: Final = hashlib.sha256()
_MAX_WAITING_BYTES: Final = 1_048_576
"""How much of an output waits for the disk before its pipe is not read any more, as if the disk were the reader."""


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


class Spill:
    """A file with all of an output. If the disk refuses it, or stands still, there is none, and the output goes on."""

    def __init__(self, path: Path, threads: DiskThreads, on_room: Callable[[], None]) -> None:
        """`on_room` is called when the file is not `full` any more."""
        self._path = path
        self._threads = threads
        self._on_room = on_room
        self._file: BinaryIO | None = None
        self._waiting_bytes = 0
        self._dropped = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """Whether so much waits for the disk that nothing more should be given."""
        return not self._dropped and self._waiting_bytes > _MAX_WAITING_BYTES

    def write(self, data: bytes) -> None:
        """Append to the file, later."""
        if self._dropped:
            return
        self._waiting_bytes += len(data)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ANSWER_S, self._give_up)
        self._threads.submit(lambda: self._append(data)).add_done_callback(lambda done: self._written(done, len(data)))

    async def finished(self) -> Path | None:
        """Close the file, and wait until all of it is written; None if it is not there as a whole."""
        if not self._dropped:
            try:
                await self._threads.run(self._close)
            except OSError:
                self.drop()
        return None if self._dropped else self._path

    def drop(self) -> None:
        """Delete the file, and write nothing more."""
        if not self._dropped:
            was_full, self._dropped = self.full, True
            self._stop_timer()
            self._threads.begin(self._delete)
            if was_full:
                self._on_room()

    def _written(self, done: asyncio.Future[None], size: int) -> None:
        was_full = self.full
        self._waiting_bytes -= size
        self._stop_timer()
        if done.cancelled() or done.exception() is not None:
            self.drop()
        elif not self._dropped and self._waiting_bytes:
            self._timer = asyncio.get_running_loop().call_later(ANSWER_S, self._give_up)
        if was_full and not self.full:
            self._on_room()

    def _give_up(self) -> None:
        self._timer = None
        self.drop()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- on the thread ------------------------------------------------------------------------------------------

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = open_private(self._path, truncate=True)
        self._file.write(data)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _delete(self) -> None:
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class OutputPipe:
    """Reads a pipe without blocking. It keeps the beginning in memory, and spills longer output to a file."""

    def __init__(
        self,
        keep_bytes: int,
        spill: tuple[Path, str] | None = None,
        spill_bytes: int = 0,
        disk: DiskThreads = AT_ONCE,
        on_chunk: Callable[[bytes], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.read_end, self.write_end = os.pipe()
        self._open = self._write_open = True
        self._keep_bytes = keep_bytes
        self._spill_to = spill
        self._spill_bytes = spill_bytes
        self._disk = disk
        self._on_chunk = on_chunk
        self._spill: Spill | None = None
        self._head = bytearray()
        self._tail = bytearray()
        self._frames = Frames(keep_bytes)
        self._size = 0
        self._hash = _OF_NOTHING  # which many a command prints
        self._watching = self._finished = self._standing = False
        self._last_read = self._loop.time()

    @property
    def last_read(self) -> float:
        """When the command printed something last. While the disk takes no more of it, that is now."""
        return self._loop.time() if self._standing else self._last_read

    @property
    def standing(self) -> bool:
        """Whether nothing is read now, because the disk takes no more of it."""
        return self._standing

    @property
    def printed(self) -> tuple[int, bytes]:
        """How many bytes were read up to now, and the last of them, of which `TAIL_BYTES` are kept."""
        return self._size, bytes(self._tail)

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
        self._last_read = self._loop.time()
        if self._hash is _OF_NOTHING:
            self._hash = hashlib.sha256()
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
        """Write a chunk to the file, or delete it if the output is too large. Read no more while the disk is behind."""
        if self._spill is None:
            assert self._spill_to is not None, "checked by the caller"
            folder, name = self._spill_to
            self._spill = Spill(folder / name, self._disk, self._go_on)
            self._spill.write(bytes(self._head))
        if self._size + len(chunk) > self._spill_bytes:
            self._drop_spill()
            return
        self._spill.write(chunk)
        if self._spill.full and self._watching and self._open:
            self._standing = True
            self._loop.remove_reader(self.read_end)

    def _go_on(self) -> None:
        """Read on, because the disk has taken more, or is not waited for any more."""
        if self._standing:
            self._standing = False
            if self._open:
                self._loop.add_reader(self.read_end, self._read)

    def _drop_spill(self) -> None:
        spill, self._spill, self._spill_to = self._spill, None, None
        if spill is not None:
            spill.drop()

    async def finish(self) -> Output:
        """Read what the ended command left in the pipe, and return the output, once all of it is in its file.

        Later output of its children is discarded until the pipe is closed: without a reader, a child that gets SIGTERM
        would be killed by SIGPIPE during its clean-up.
        """
        end = self._size + (_bytes_in(self.read_end) if self._open else 0)
        while self._open and self._size < end and self._read():
            pass  # no further, because a child that still writes would never let this end
        self._finished = True
        spilled = await self._spill.finished() if self._spill is not None else None
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
