"""Reads a file piece by piece on a thread: the content of what is uploaded."""

from collections.abc import AsyncGenerator
from pathlib import Path

from agentbus_worker.disk.threads import DiskThreads


async def file_pieces(path: Path, size: int, threads: DiskThreads) -> AsyncGenerator[bytes]:
    """Yield the content of a file, in pieces of at most `size` bytes.

    Raises:
        OSError: it cannot be read, or the disk does not answer.
    """
    file = await threads.run(lambda: path.open("rb"))
    try:
        while piece := await threads.run(lambda: file.read(size)):
            yield piece
    finally:
        threads.begin(file.close)
