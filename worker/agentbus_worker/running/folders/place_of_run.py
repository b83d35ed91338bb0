"""Gives the folder in which a run works: that of its session, a clone of the repository, or what is configured."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import CommandError, MachineFaultError
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.work.task_work import SentFile, Work
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.repositories.clone import Clone
from agentbus_worker.repositories.clones import Clones, Lay
from agentbus_worker.running.folders.inputs import Inputs
from agentbus_worker.running.folders.temporary_folders import TemporaryFolders
from agentbus_worker.running.folders.working_folder import working_folder

if TYPE_CHECKING:
    from agentbus_worker.conversations.conversation import Conversation


_BUNDLE: Final = "sent.bundle"
"""In the folder of a clone: the commits that its task has brought."""


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


def place_of_run(
    config: WorkerConfig,
    key: TaskKey,
    places: Places,
    work: Work | None,
    conversation: "Conversation",
    threads: DiskThreads,
    stop: asyncio.Future[None],
) -> AbstractAsyncContextManager[tuple[Path | None, Clone | None]]:
    """Give the folder in which an attempt runs, if it is not that of the worker, and the clone that it belongs to.

    Raises:
        MachineFaultError: it cannot be made, or is not there, or the disk does not answer.
        WorkspaceError: there is no clone of the repository.
    """
    if places.clones is conversation.resumed is config.agent.folder is config.worker.workdir is None:
        return nullcontext((None, None))
    return _made(config, key, places, work, conversation, threads, stop)


@asynccontextmanager
async def _made(
    config: WorkerConfig,
    key: TaskKey,
    places: Places,
    work: Work | None,
    conversation: "Conversation",
    threads: DiskThreads,
    stop: asyncio.Future[None],
) -> AsyncGenerator[tuple[Path | None, Clone | None]]:
    worker, clones, session, name = config.worker, places.clones, conversation.resumed, _name(key)
    if clones is not None:
        lay = _laying(places.inputs, key, work, stop)
        made = clones.of_folder(Path(session.folder), stop) if session else clones.of_task(key, name, work, stop, lay)
        clone = await made
        if clone is not None:
            clone.keep = lambda: worker.keep_workdir or conversation.keeps_folder or session is not None
            home = clone.record.home
            try:
                yield clone.tree, clone
            except CommandError:  # nothing was started
                with suppress(OSError):
                    await threads.run(lambda: clone.note(home=home))
                raise
            finally:
                if clone.record.home and not clone.keep():
                    clones.remove(clone)
                else:
                    clone.close()
            return
    folder = Path(session.folder) if session is not None else config.agent.folder
    if folder is not None:
        await _check_there(folder, threads, stop)
        yield folder, None
        return
    found = working_folder(
        worker.workdir,
        name,
        keep=lambda: worker.keep_workdir or conversation.keeps_folder,
        threads=threads,
        stop=stop,
    )
    async with found as new:
        yield new, None


def _laying(inputs: Inputs | None, key: TaskKey, work: Work | None, stop: asyncio.Future[None]) -> Lay | None:
    """Return what writes the commits that a task brings into a folder; None of one that brings none."""
    sent = work.bundle if work is not None else None
    if inputs is None or sent is None:
        return None

    async def lay(folder: Path) -> Path:
        await inputs.lay(key.owner, [SentFile(name=_BUNDLE, **sent.model_dump())], folder, stop)
        return folder / _BUNDLE

    return lay


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
