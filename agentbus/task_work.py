"""The part of the handle of a task that lists what its run has left, and takes it: files and changes."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from agentbus.bus.jetstream import Bus
from agentbus.tasks.status import TaskStatus

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.protocol.work.results import Artifact, Changes


class TaskWork(ABC):
    """The methods of a handle about the work of its task; get one from `Coordinator.publish` or `Coordinator.task`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @abstractmethod
    async def status(self) -> TaskStatus:
        """Read the state of the task, and its result if it has one."""

    async def artifacts(self) -> "tuple[Artifact, ...]":
        """List the files that the run of the settled task has left; their names and contents are the agent's.

        Raises:
            NotSettledError: the task has no result yet.
        """
        from agentbus.tasks.work.artifacts import artifacts_of

        return artifacts_of(await self.status())

    async def changes(self) -> "Changes | None":
        """Return what changed in the repository of the run of the settled task; None of a run without a repository.

        Raises:
            NotSettledError: the task has no result yet.
        """
        from agentbus.tasks.work.artifacts import changes_of

        return changes_of(await self.status())

    async def artifact(self, name: str) -> AsyncGenerator[bytes]:
        """Yield the content of a file that the run of the settled task has left, in pieces, in constant memory.

        An error after the last piece means that the pieces are not what the result says.

        Raises:
            NotSettledError: the task has no result yet.
            WorkError: there is none of this name.
            FileMissingError, CorruptFileError: it is not there any more, or not what the result says.
        """
        from agentbus.tasks.work.artifacts import artifact_named, read_artifact

        status = await self.status()
        async with aclosing(read_artifact(self._bus, status, artifact_named(status, name))) as pieces:
            async for piece in pieces:
                yield piece

    async def save_artifacts(self, folder: "Path", *names: str) -> "list[Path]":
        """Save files that the run of the settled task has left below a folder; all of them, if no name is given.

        Nothing is replaced, no link is followed, and a file is there whole or not at all.

        Raises:
            NotSettledError: the task has no result yet.
            WorkError: there is none of a name, or another file lies there; says what to do.
            FileMissingError, CorruptFileError: see `artifact`.
        """
        from agentbus.tasks.work.artifacts import artifact_named, artifacts_of, save_artifacts

        status = await self.status()
        wanted = [artifact_named(status, name) for name in dict.fromkeys(names)] or artifacts_of(status)
        return [saved.path async for saved in save_artifacts(self._bus, status, wanted, folder)]
