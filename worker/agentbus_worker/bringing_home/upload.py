"""Uploads the files of a parcel into the object store of the agent."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError, BusUnavailableError
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.work.results import Artifact, LeftOut
from agentbus.tasks.output_store import chunk_bytes, put_file
from agentbus_worker.bringing_home.parcel import Parcel
from agentbus_worker.disk.file_pieces import file_pieces
from agentbus_worker.disk.threads import DiskThreads

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before a file is tried again; the last one repeats. A server restart takes about 1 s."""


class Upload:
    """The upload of one parcel. What is done is in `stored`, also where it was interrupted.

    Args:
        key: the task whose owner may read the files.
        before_each: is done before each file.
    """

    def __init__(
        self,
        bus: Bus,
        key: TaskKey,
        parcel: Parcel,
        threads: DiskThreads,
        before_each: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._bus = bus
        self._key = key
        self._parcel = parcel
        self._threads = threads
        self._before_each = before_each
        self.stored: list[Artifact] = []
        self.refused: list[LeftOut] = []

    async def run(self) -> None:
        """Upload all files; what the bus or the disk refuses is in `refused`.

        Raises:
            BusUnavailableError: the connection has ended for good.
        """
        for file in self._parcel.files:
            if self._before_each is not None:
                await self._before_each()
            try:
                await self._until_stored(self._parcel.path(file), file.artifact)
            except BusUnavailableError:
                raise
            except (BusError, OSError) as error:
                self.refused.append(LeftOut(file.artifact.name, f"it could not be stored: {error}"))
            else:
                self.stored.append(file.artifact)

    @property
    def missing(self) -> list[Artifact]:
        """What was neither stored nor refused."""
        done = {one.name for one in (*self.stored, *self.refused)}
        return [file.artifact for file in self._parcel.files if file.artifact.name not in done]

    async def _until_stored(self, path: Path, artifact: Artifact) -> None:
        failures = 0
        while True:
            try:
                pieces = file_pieces(path, chunk_bytes(self._bus), self._threads)
                await put_file(self._bus, self._key.agent, artifact.object, pieces, owner=self._key.owner)
            except BusUnavailableError:
                if self._bus.closed:
                    raise
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
            else:
                return
