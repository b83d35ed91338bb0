"""Asks an agent for the file in which it says what it does not print, and reads the end of that file after the run.

The agent, and what it runs, can put anything in its place.
"""

import asyncio
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from agentbus.observability.agent_telemetry import own_telemetry
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.formats.readers import READERS
from agentbus_worker.formats.stream import EventStream

_END_BYTES: Final = 4_194_304
"""After its last response Gemini CLI writes what tools it has, twice, and its metrics: 120 KB, more with many tools."""


class SideFileOfRun(NamedTuple):
    """The file of a run, and the variables that ask for it; None and no variables where it is not asked for."""

    path: Path | None = None
    environment: Mapping[str, str] = {}


async def side_file_of_run(
    output: str,
    folder: Path,
    words: Sequence[str],
    environment: Mapping[str, str],
    workdir: Path | None,
    *,
    threads: DiskThreads,
    stop: asyncio.Future[None],
) -> SideFileOfRun:
    """Return what asks for the file of a format. It is not asked for where a person has telemetry of the agent.

    Args:
        output: the format of the command.
        folder: the temporary folder of the run.
        words: the command.
        environment: that of the command.
        workdir: in which it runs; None for the folder of this worker.
        threads: look for that telemetry.
        stop: once this is done, a disk that does not answer is not waited for.
    """
    asked = READERS[output].side_file if output in READERS else None
    if asked is None:
        return SideFileOfRun()
    with suppress(OSError):
        own = await threads.run(lambda: own_telemetry(words, environment, workdir or Path.cwd()), stop=stop)
        if not own:
            path = folder / asked.name
            return SideFileOfRun(path, {**asked.environment, asked.variable: str(path)})
    return SideFileOfRun()


async def read_side_file(
    path: Path | None, events: EventStream | None, threads: DiskThreads, stop: asyncio.Future[None]
) -> None:
    """Give the reader of a run that has ended the end of its file; one that cannot be read says nothing.

    The threads do so: nothing else is read of the run meanwhile, and a hostile file takes time.
    """
    if path is not None and events is not None:
        with suppress(OSError):
            await threads.run(lambda: events.reader.feed_side_file(end_of(path)), stop=stop)


def end_of(file: Path) -> bytes:
    """Return the last part of the file; nothing of what is no regular file, and no pipe is waited for.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b""
        opened.seek(max(0, found.st_size - _END_BYTES))
        return opened.read(_END_BYTES)
