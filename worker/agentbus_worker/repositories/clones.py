"""Makes the clones of tasks, goes on in those of conversations, and removes them when they are not needed any more."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import GitError, MachineFaultError, WorkspaceError
from agentbus.git.running import Git
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.work.task_work import Work
from agentbus_worker.disk.file_lock import try_lock
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.repositories.clone import OWN, TREE, Clone, CloneRecord, prepare_own, read_record, write_record
from agentbus_worker.repositories.faults import fault_of
from agentbus_worker.repositories.mirror import STEP_S, Mirror
from agentbus_worker.running.folders.working_folder import remove_tree

log = logging.getLogger("agentbus.worker")

FOLDER: Final = "clones"
"""Beside the numbered state folders of an agent."""
BRANCH: Final = "agentbus/"
"""What the branch of a task begins with, where the task names none."""
_BROUGHT: Final = "+refs/heads/*:refs/agentbus/brought/*"
Lay = Callable[[Path], Awaitable[Path]]
"""Writes the bundle that a task brings into a folder, and returns where it is."""
_DAY_S: Final = 86_400.0
_IDENTITY: Final = "[user]\n\tname = agentbus\n\temail = agentbus@localhost\n"


class Clones:
    """The clones of the tasks of one agent, on one bus, on this machine.

    Args:
        base: the folder of the state of the agent on this bus.
    """

    def __init__(self, config: WorkerConfig, base: Path, threads: DiskThreads) -> None:
        self._section = config.repository
        self._days = config.worker.session_days
        self._folder = base / FOLDER
        self._threads = threads
        self._mirror = Mirror(config.repository, config.worker.state_dir, threads)
        self._has_identity: bool | None = None

    async def of_task(
        self, key: TaskKey, name: str, work: Work | None, stop: asyncio.Future[None], lay: Lay | None = None
    ) -> Clone:
        """Return the clone of a task; a later attempt finds that of an earlier one.

        Args:
            name: of its folder.
            work: what the task says of the repository.
            stop: once this is done, neither a lock nor a disk is waited for.
            lay: writes the commits that the task brings into a folder, as a bundle.

        Raises:
            WorkspaceError: it cannot be made; the message says what is wrong.
            MachineFaultError: another worker still has it, or the disk is full, or does not answer.
        """
        folder = self._folder / name
        lock = await self._taken(folder, stop)
        try:
            record = await self._read(folder, stop)
            if record is None:
                record = await self._made_unless(folder, key, work, stop, lay)
        except BaseException:
            self._threads.begin(lambda: _unlocked(folder, lock))
            raise
        return Clone(folder, record, lock)

    async def of_folder(self, tree: Path, stop: asyncio.Future[None]) -> Clone | None:
        """Return the clone with this folder of the agent, for a task that goes on there; None if it is none of these.

        Raises:
            MachineFaultError: another worker still has it, or the disk does not answer.
        """
        folder = tree.parent
        if tree.name != TREE or folder.parent != self._folder:
            return None
        lock = await self._taken(folder, stop)
        try:
            record = await self._read(folder, stop)
        except BaseException:
            lock.close()
            raise
        if record is None:
            lock.close()
            return None
        return Clone(folder, record, lock)

    async def _read(self, folder: Path, stop: asyncio.Future[None]) -> CloneRecord | None:
        try:
            return await self._threads.run(lambda: read_record(folder), stop=stop)
        except TimeoutError as error:
            raise MachineFaultError(f"the clone {folder} cannot be read: {error.strerror or error}") from None

    async def _taken(self, folder: Path, stop: asyncio.Future[None]) -> BinaryIO:
        def take() -> BinaryIO | None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return try_lock(_lock_path(folder))

        try:
            lock = await self._threads.run(take, stop=stop)
        except OSError as error:
            raise MachineFaultError(f"the clone {folder} cannot be used: {error.strerror or error}") from None
        if lock is None:
            raise MachineFaultError(f"another worker is still at work in {folder}")
        return lock

    async def _made_unless(
        self, folder: Path, key: TaskKey, work: Work | None, stop: asyncio.Future[None], lay: Lay | None
    ) -> CloneRecord:
        """Make a clone, unless the task is stopped; what is there of it then is removed.

        Raises:
            MachineFaultError: the task was stopped; what becomes of it is decided where that is known.
        """
        making = asyncio.ensure_future(self._made(folder, key, work, stop, lay))
        try:
            await asyncio.wait({making, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not making.done():
                raise MachineFaultError("the task was stopped before it had a clone")
            return making.result()
        except BaseException:
            making.cancel()
            await asyncio.wait({making})
            with contextlib.suppress(TimeoutError):  # a disk that does not answer; the next one removes it
                await self._threads.run(lambda: remove_tree(folder))
            raise

    async def _made(
        self, folder: Path, key: TaskKey, work: Work | None, stop: asyncio.Future[None], lay: Lay | None
    ) -> CloneRecord:
        brings = lay if work is not None and work.bundle is not None else None
        base = await self._mirror.commit_of(work.base if work else None, stop, brought=brings is not None)
        branch = (work.branch if work else None) or f"{BRANCH}{key.id}"
        shown = self._section.source_without_password
        try:
            await self._fill(folder, base.commit, branch, brings)
            record = CloneRecord(key.id, key.owner, shown, base.commit, base.name, branch, time.time(), home=True)
            identity = "" if await self._user_has_identity(folder / TREE / ".git") else _IDENTITY
            await self._threads.run(lambda: _complete(folder, record, identity))
        except GitError as error:
            raise fault_of(f"no clone of {shown} could be made", error, self._folder) from None
        except OSError as error:
            raise fault_of(f"no clone could be made in {folder}", error, self._folder) from None
        return record

    async def _fill(self, folder: Path, commit: str, branch: str, lay: Lay | None) -> None:
        """Make the two repositories of a clone, and check out the files."""
        timeout_s, tree = self._section.timeout_seconds, folder / TREE
        await self._threads.run(lambda: remove_tree(folder), timeout_s=timeout_s)
        await self._threads.run(lambda: folder.mkdir(mode=0o700))
        source, words = str(self._mirror.path), ("--quiet", "--shared", "--no-checkout", "--template=")
        await Git().run("clone", *words, "--", source, str(tree), timeout_s=timeout_s)
        inside, origin = Git(git_dir=tree / ".git", work_tree=tree), self._section.source_without_password
        await inside.run("config", "remote.origin.url", origin, timeout_s=STEP_S)
        bundle = await lay(folder) if lay is not None else None
        if bundle is not None:
            await _fetch_brought(inside, bundle, timeout_s)
        await inside.run("checkout", "--quiet", "--no-track", "-b", branch, commit, timeout_s=timeout_s)
        await self._threads.run(lambda: prepare_own(folder, self._mirror.objects))
        if bundle is not None:  # so that the base is there when the agent has removed its repository
            await _fetch_brought(Git(git_dir=folder / OWN), bundle, timeout_s)

    async def _user_has_identity(self, new_clone: Path) -> bool:
        """Whether git knows who commits in a new clone: without that, an agent that commits would fail.

        A worker may be started in a repository whose own settings name a person: they do not count in a clone.
        """
        if self._has_identity is None:
            git = Git(git_dir=new_clone, of_user=True)
            asked = await git.run("config", "--get", "user.email", timeout_s=STEP_S, check=False)
            self._has_identity = asked.code == 0
        return self._has_identity

    def remove(self, clone: Clone) -> None:
        """Begin to remove a clone of which all is at home; this process has its lock, which is released then."""
        self._threads.begin(lambda: _removed(clone.folder, clone.close))

    def begin_to_remove_old(self) -> None:
        """Begin to remove the clones that were not used for long, or that are too many or take too much room.

        The oldest go first. One that a run uses stays, and so does one that holds what was not brought home.
        """
        self._threads.begin(self._remove_old)

    def _remove_old(self) -> None:
        entries = [(path, read_record(path)) for path in self._entries()]
        for folder, record in entries:
            if record is None:  # its worker was killed while it made it
                self._removed_alone(folder)
        self._remove_beyond([(path, record) for path, record in entries if record is not None])

    def _remove_beyond(self, found: list[tuple[Path, CloneRecord]]) -> None:
        found.sort(key=lambda one: one[1].used_at)
        count, size = len(found), sum(record.bytes for _, record in found)
        for folder, record in found:
            old = time.time() - record.used_at >= self._days * _DAY_S
            if not (
                old or not record.kept or count > self._section.max_clones or size > self._section.max_clones_bytes
            ):
                continue
            if record.home and self._removed_alone(folder):
                count, size = count - 1, size - record.bytes

    def _entries(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return [path for path in self._folder.iterdir() if path.is_dir()]
        return []

    def _removed_alone(self, folder: Path) -> bool:
        """Remove a clone that no run uses; one that was used meanwhile stays."""
        with contextlib.suppress(OSError):
            lock = try_lock(_lock_path(folder))
            if lock is not None:
                record = read_record(folder)
                if record is None or record.home:
                    _removed(folder, lock.close)
                    return True
                lock.close()
        return False


def clones_of(config: WorkerConfig, base: Path, threads: DiskThreads) -> Clones | None:
    """Return the clones of an agent that has a repository, and begin to remove old ones; None if it has none."""
    if not config.has_repository:
        return None
    clones = Clones(config, base, threads)
    clones.begin_to_remove_old()
    return clones


def note_home(folder: Path) -> None:
    """Note that all that is in a clone is at home, or remove it; one that is in use, or gone, is left."""
    with contextlib.suppress(OSError):
        lock = try_lock(_lock_path(folder)) if folder.is_dir() else None
        if lock is not None:
            with lock:
                if (record := read_record(folder)) is not None and not record.kept:
                    _removed(folder, lock.close)
                elif record is not None:
                    write_record(folder, replace(record, home=True))


def is_in_use(folder: Path) -> bool:
    """Whether a run has a clone, or the disk does not tell."""
    with contextlib.suppress(OSError):
        if (lock := try_lock(_lock_path(folder))) is not None:
            lock.close()
            return False
    return True


async def _fetch_brought(git: Git, bundle: Path, timeout_s: float) -> None:
    """Fetch what a task brings; its objects are checked.

    Raises:
        WorkspaceError: they cannot be used.
        MachineFaultError: the disk is full.
    """
    words = ("fetch", "--quiet", "--no-auto-gc", "--no-write-fetch-head", "--no-tags")
    try:
        await git.run(*words, "--", str(bundle), _BROUGHT, timeout_s=timeout_s)
    except GitError as error:
        if isinstance(fault := fault_of("the commits that the task brings", error, bundle.parent), MachineFaultError):
            raise fault from None
        raise WorkspaceError(
            f"the commits that the task brings cannot be used ({error}): push to the repository what they rest on"
        ) from None


def _complete(folder: Path, record: CloneRecord, identity: str) -> None:
    """Do the last steps of a new clone; the record comes last, and says that it is complete."""
    if identity:
        with (folder / TREE / ".git" / "config").open("a", encoding="utf-8") as config:
            config.write(identity)
    write_record(folder, record)


def _removed(folder: Path, release: Callable[[], None]) -> None:
    if why := remove_tree(folder):
        log.warning("the clone %s cannot be removed: %s", folder, why)
    with contextlib.suppress(OSError):
        _lock_path(folder).unlink(missing_ok=True)
    release()


def _unlocked(folder: Path, lock: BinaryIO) -> None:
    """Release the lock of a clone, and remove its file where there is no clone."""
    with lock, contextlib.suppress(OSError):
        if not folder.exists():
            _lock_path(folder).unlink(missing_ok=True)


def _lock_path(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")
