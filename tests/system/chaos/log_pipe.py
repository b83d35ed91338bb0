"""The pipe that a worker logs to: read into a file, except while it stands still."""

import asyncio
import os
from pathlib import Path
from typing import Final

_PAGE: Final = 4096


class LogPipe:
    """A pipe that outlives the processes of its worker; processes get `write_end`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._still = asyncio.Lock()

    def open(self) -> None:
        """Begin to read."""
        asyncio.get_running_loop().add_reader(self._read_end, self._copy)

    def close(self) -> None:
        """Read what is there, and close it."""
        asyncio.get_running_loop().remove_reader(self._read_end)
        while self._copy():
            pass
        os.close(self._read_end)
        os.close(self.write_end)
        self._file.close()

    async def stand_still(self, length_s: float) -> None:
        """Fill it, and read nothing for a while: the next line that a process writes waits."""
        async with self._still:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._read_end)
            try:
                self._fill()
                await asyncio.sleep(length_s)
            finally:
                if not self._file.closed:
                    loop.add_reader(self._read_end, self._copy)

    async def drained(self) -> None:
        """Wait until all that a process that has ended wrote is in the file."""
        async with self._still:
            while self._copy():
                pass

    def _copy(self) -> bool:
        try:
            data = os.read(self._read_end, _PAGE)
        except BlockingIOError:
            return False
        self._file.write(data)
        return bool(data)

    def _fill(self) -> None:
        # Opened anew, because O_NONBLOCK would otherwise hold for the worker as well.
        filler = os.open(f"/proc/self/fd/{self.write_end}", os.O_WRONLY | os.O_NONBLOCK)
        size = _PAGE
        try:
            while size:
                try:
                    os.write(filler, b"\n" * size)
                except BlockingIOError:
                    size //= 2  # so much is written as a whole or not at all
        finally:
            os.close(filler)
