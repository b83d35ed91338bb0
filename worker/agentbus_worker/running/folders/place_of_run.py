"""Gives the folder in which a run works: that of its session, a clone of the repository, or what is configured."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import MachineFaultError
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.work.task_work import Work
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.repositories.clone import Clone
from agentbus_worker.repositories.clones import Clones
from agentbus_worker.running.folders.inputs import Inputs
from agentbus_worker.running.folders.temporary_folders import TemporaryFolders
from agentbus_worker.running.folders.working_folder import working_folder

if TYPE_CHECKING:
    from agentbus_worker.conversations.conversation import Conversation


class Places(NamedTuple):
    """Where the folders of runs lie.

    Attributes:
        tmp: a private folder of the worker, for prompt files.
        temporary: the temporary folders of runs.
        clones: of the agent's repository, if it has one.
        inputs: lays what tasks bring.
    """

    tmp: Path
    temporary: TemporaryFolders
    clones: Clones | None = None
    inputs: Inputs | None = None


@asynccontextmanager
async def place_of_run(
    config: WorkerConfig,
    key: TaskKey,
    places: Places,
    work: Work | None,
    conversation: "Conversation",
    threads: DiskThreads,
    stop: asyncio.Future[None],
) -> AsyncGenerator[tuple[Path | None, Clone | None]]:
    """Give the folder in which an attempt runs, if it is not that of the worker, and the clone that it belongs to.

    Raises:
        MachineFaultError: it cannot be made, or is not there, or the disk does not answer.
        WorkspaceError: there is no clone of the repository.
    """
    worker, clones, session, name = config.worker, places.clones, conversation.resumed, _name(key)
    if clones is not None:
        clone = await (
            clones.of_folder(Path(session.folder), stop) if session else clones.of_task(key, name, work, stop)
        )
        if clone is not None:
            try:
                yield clone.tree, clone
            finally:
                clone.close()
            return
    folder = Path(session.folder) if session is not None else config.agent.folder
    if folder is not None:
        await _check_there(folder, threads, stop)
        yield folder, None
        return
    made = working_folder(
        worker.workdir,
        name,
        keep=lambda: worker.keep_workdir or conversation.keeps_folder,
        threads=threads,
        stop=stop,
    )
    async with made as new:
        yield new, None


async def _check_there(folder: Path, threads: DiskThreads, stop: asyncio.Future[None]) -> None:
    try:
        found = await threads.run(folder.is_dir, stop=stop)
    except OSError as error:
        raise MachineFaultError(f"the folder {folder} cannot be read: {error.strerror or error}") from None
    if not found:
        raise MachineFaultError(f"the folder {folder} is not there")


def _name(key: TaskKey) -> str:
    """Return the name of the folder of a task: two owners may use one id. No id holds `~`."""
    return key.id if key.owner == COORDINATOR else f"{key.owner}~{key.id}"
