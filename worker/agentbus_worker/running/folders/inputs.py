"""Lays the files that a task brings into a folder of the run, before it starts: under their names, and whole."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.config.atomic_files import open_to_write, why_not_written
from agentbus.errors import (
    BusError,
    CorruptFileError,
    FileMissingError,
    MachineFaultError,
    PermissionDeniedError,
    SetupMissingError,
    WorkspaceError,
)
from agentbus.protocol.work.task_work import SentFile
from agentbus.tasks.work.input_store import read_input
from agentbus_worker.disk.threads import DiskThreads

FOLDER: Final = "inputs"
"""In the temporary folder of a run."""
VARIABLE: Final = "AGENTBUS_INPUTS"
_OWNER_ONLY: Final = 0o600
_FOLDER_MODE: Final = 0o700


class Inputs:
    """What tasks bring to one agent.

    Args:
        threads: write the files.
    """

    def __init__(self, bus: Bus, agent: str, threads: DiskThreads) -> None:
        self._bus = bus
        self._agent = agent
        self._threads = threads

    async def lay(self, owner: str, files: Sequence[SentFile], folder: Path, stop: asyncio.Future[None]) -> None:
        """Make `folder`, with the files of a task of `owner` in it.

        Args:
            stop: once this is done, neither the bus nor a disk is waited for.

        Raises:
            WorkspaceError: one is not on the bus, or is not what the task names.
            MachineFaultError: the bus or the disk does not give or take it, or the task was stopped.
        """
        laying = asyncio.ensure_future(self._lay(owner, files, folder))
        try:
            await asyncio.wait({laying, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not laying.done():
                raise MachineFaultError("the task was stopped before it had its files")
            laying.result()
        finally:
            laying.cancel()
            await asyncio.wait({laying})

    async def _lay(self, owner: str, files: Sequence[SentFile], folder: Path) -> None:
        for file in files:
            path = folder / file.name  # its name was checked where the task was read: it leads nowhere else
            try:
                await self._write(owner, file, path)
            except (FileMissingError, CorruptFileError, PermissionDeniedError, SetupMissingError) as error:
                raise WorkspaceError(f"the file {file.name} of the task: {error}") from None
            except BusError as error:
                raise MachineFaultError(f"the file {file.name} of the task cannot be read: {error}") from None
            except OSError as error:
                raise MachineFaultError(f"{path} cannot be written: {why_not_written(error)}") from None

    async def _write(self, owner: str, file: SentFile, path: Path) -> None:
        await self._threads.run(lambda: path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True))
        out = await self._threads.run(lambda: open_to_write(path, _OWNER_ONLY))
        try:
            async with aclosing(read_input(self._bus, self._agent, owner, file)) as pieces:
                async for piece in pieces:
                    await self._threads.run(_writing(out.write, piece))
        finally:
            await self._threads.run(out.close)


def _writing(write: Callable[[bytes], int], piece: bytes) -> Callable[[], int]:
    return lambda: write(piece)
