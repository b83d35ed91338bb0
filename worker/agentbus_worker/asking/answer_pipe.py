"""The FIFO through which the driver of an agent gets the answers to its questions."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from agentbus.errors import MachineFaultError
from agentbus_worker.disk.threads import DiskThreads

_OWNER_ONLY: Final = 0o600


class AnswerPipe:
    """The worker's end of it. Nothing here waits: what does not fit into the pipe follows once there is room."""

    def __init__(self, path: Path, threads: DiskThreads) -> None:
        self.path = path
        self._threads = threads
        # Open for reading as well: neither this nor a write waits for the driver.
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""

    def give(self, question: str, *, allow: bool, comment: str = "") -> None:
        """Send an answer."""
        line = {"id": question, "allow": allow, **({"comment": comment} if comment else {})}
        writes = bool(self._rest)
        self._rest += json.dumps(line).encode() + b"\n"
        if not writes:
            self._write()

    def hide(self) -> None:
        """Remove its name, as the driver has it open: what the agent runs finds it no more."""
        self._threads.begin(lambda: _remove(self.path))

    def close(self) -> None:
        """Close it, and remove it."""
        if self._rest:
            asyncio.get_running_loop().remove_writer(self._file)
        os.close(self._file)
        self.hide()

    def _write(self) -> None:
        loop, waited = asyncio.get_running_loop(), bool(self._rest)
        with contextlib.suppress(BlockingIOError):
            self._rest = self._rest[os.write(self._file, self._rest) :]
        if self._rest:
            loop.add_writer(self._file, self._write)
        elif waited:
            loop.remove_writer(self._file)


@asynccontextmanager
async def answer_pipe(path: Path, threads: DiskThreads, stop: asyncio.Future[None]) -> AsyncGenerator[AnswerPipe]:
    """Make the FIFO of a run in a private folder, for the length of the block.

    Raises:
        MachineFaultError: it cannot be made, or the disk does not answer.
    """

    def make() -> AnswerPipe:
        os.mkfifo(path, _OWNER_ONLY)
        return AnswerPipe(path, threads)

    try:
        pipe = await threads.run(make, stop=stop)
    except OSError as error:
        raise MachineFaultError(f"the pipe {path} cannot be made: {error.strerror or error}") from None
    try:
        yield pipe
    finally:
        pipe.close()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
