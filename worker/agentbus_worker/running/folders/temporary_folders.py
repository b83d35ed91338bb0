"""Gives each run a temporary folder of its own, and removes it with the run, also where the worker was killed.

Agents leave files there: logs of errors with the conversation in them, readable by every user, and caches without end.
All of a worker lie in one folder of the machine's temporary folder, whose path is short: sockets of programs lie there,
too, and the path of a socket has at most a hundred characters. A link in the worker's state folder names it, for the
worker that comes after a kill.

To make and to remove a folder takes a third as long as a run of nothing, on threads that want Python's lock meanwhile.
So one that a quick run has not touched, and of which no process is left, is given to a later run.
"""

import asyncio
import functools
import itertools
import logging
import os
import stat
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from agentbus.errors import MachineFaultError
from agentbus.protocol.ids import random_token
from agentbus_worker.disk.threads import AT_ONCE, DiskThreads
from agentbus_worker.running.folders.working_folder import remove_tree

log = logging.getLogger("agentbus.worker")

_PREFIX: Final = "agentbus-"
_OWNER_ONLY: Final = 0o700
_FRESH_S: Final = 60.0
"""How long a folder that lies ready is used: what clears temporary folders takes those that lie for hours."""
_COLLECTED_S: Final = 0.1
"""How long folders of ended runs are collected, so that a thread is woken for many of quick runs: waking one for each
run, and waiting for Python's lock beside it, took a sixth of the throughput."""
_MOST_READY: Final = 64
_AGED_S: Final = 0.05
"""How old a folder is before it is seen by the time of its change that a run has touched it: kernels count that time in
steps of up to ten milliseconds."""
_QUICK_S: Final = 1.0
"""Only after so quick a run its folder is looked at: the event loop does so, and what it reads is in memory by then."""


class _Status(NamedTuple):
    """What changes whenever anything is put into a folder, or is changed about the folder itself."""

    device: int
    number: int
    mode: int
    user: int
    links: int
    changed_ns: int

    @property
    def is_precise(self) -> bool:
        """Whether the file system keeps times that are precise enough: some know seconds only."""
        return self.changed_ns % 1_000_000 != 0


class _Folder(NamedTuple):
    """A folder as it was made, at a monotonic time."""

    path: Path
    made: _Status
    at: float


class TemporaryFolders:
    """The temporary folders of the runs of one worker.

    Args:
        records: a private folder of this worker on disk: the links lie in it.
        threads: make and remove the folders.
    """

    def __init__(self, records: Path, threads: DiskThreads = AT_ONCE) -> None:
        self._records = records
        self._threads = threads
        self._lock = threading.RLock()
        self._turns = asyncio.Lock()  # which are taken in order: a task must not run before those that came before it
        self._waiting = 0
        self._closed = False
        self._numbers = itertools.count()
        self._base: Path | None = None
        self._ready: deque[tuple[float, _Folder]] = deque()  # with the time since which each lies there
        self._ended: list[Path] = []

    def of_run(self, stop: asyncio.Future[None] | None = None) -> "FolderOfRun":
        """Make a folder, private to this user, for the length of the block; what is in it goes with it, soon after.

        Args:
            stop: once this is done, a disk that does not answer is not waited for.

        Raises:
            MachineFaultError: it cannot be made, or the disk does not answer.
        """
        return FolderOfRun(self, stop)

    async def take(self, stop: asyncio.Future[None] | None) -> _Folder:
        """Take a folder; see `of_run`."""
        if not self._waiting and (folder := self._take_ready()) is not None:
            return folder
        self._waiting += 1
        try:
            async with self._turns:
                return self._take_ready() or await self._threads.run(self._make, stop=stop)
        except OSError as error:
            raise MachineFaultError(
                f"a temporary folder cannot be made in {_place()}: {error.strerror or error}"
            ) from None
        finally:
            self._waiting -= 1

    def _take_ready(self) -> _Folder | None:
        """Return an empty folder that lies ready, the oldest one: where runs are quick, none waits for a thread."""
        while self._ready:
            since, folder = self._ready.popleft()
            if time.monotonic() - since < _FRESH_S:
                return folder
            self.collect(folder.path)
        return None

    def give_back(self, folder: _Folder, taken_at: float, *, ended: bool) -> None:
        """Keep the folder of a run for a later one, or remove it, soon.

        Args:
            taken_at: when the run got it.
            ended: whether it is certain that no process of the run is left, which would have the path of its own.
        """
        now = time.monotonic()
        aged = folder.made.is_precise and taken_at - folder.at > _AGED_S
        if ended and aged and now - taken_at < _QUICK_S and len(self._ready) < _MOST_READY:
            with suppress(OSError):
                if _status(folder.path) == folder.made:
                    self._ready.append((now, folder))
                    return
        self.collect(folder.path)

    def collect(self, folder: Path) -> None:
        """Remove the folder of a run that has ended, soon."""
        self._ended.append(folder)
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_later(_COLLECTED_S, self._begin_to_clear)

    def _begin_to_clear(self) -> None:
        ended, self._ended = self._ended, []
        self._threads.begin(functools.partial(self._clear, ended))

    def __enter__(self) -> Self:
        """Begin to remove what dead workers have left, whose processes have ended."""
        self._threads.begin(_place)  # Python finds it by writing a file, for which there may be no room later
        self._threads.begin(self._remove_left)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin to remove all of them. What that does not come to is left to the next worker."""
        self._threads.begin(self._remove_own)

    # -- on the threads -----------------------------------------------------------------------------------------

    def _remove_own(self) -> None:
        with self._lock:
            self._closed = True
            links = list(self._records.iterdir())
        _remove_all(links)

    def _remove_left(self) -> None:
        with self._lock:  # a run of this worker may be the first one to have a folder
            left = [link for link in self._records.iterdir() if self._base is None or link.name != self._base.name]
        _remove_all(left)

    def _clear(self, ended: list[Path]) -> None:
        """Remove folders with what is in them, and make others, so that as many lie ready as runs end in this time."""
        with self._lock:
            if self._closed:
                return
            missing = min(len(ended), _MOST_READY) - len(self._ready)
            with suppress(OSError):  # the next run tries it again, and says why it cannot be made
                if missing > 0:
                    self._ready.append((time.monotonic(), self._make()))
                for _ in range(missing - 1):
                    self._ready.append((time.monotonic(), self._make_one()))
        for folder in ended:
            _remove(folder)

    def _make(self) -> _Folder:
        with self._lock:
            if self._base is None or not _is_ours(self._base):  # what clears temporary folders may have taken it
                self._base = self._new_base()
            return self._make_one()

    def _make_one(self) -> _Folder:
        assert self._base is not None, "it was made, and looked at, just before"
        path = self._base / str(next(self._numbers))
        path.mkdir(mode=_OWNER_ONLY)
        return _Folder(path, _status(path), time.monotonic())

    def _new_base(self) -> Path:
        while True:
            base = Path(tempfile.gettempdir()) / f"{_PREFIX}{random_token(8)}"
            link = self._records / base.name
            link.symlink_to(base)  # first, so that a worker that is killed now leaves nothing unknown
            try:
                base.mkdir(mode=_OWNER_ONLY)
            except FileExistsError:
                link.unlink()
            except OSError:
                link.unlink()
                raise
            else:
                return base


class FolderOfRun:
    """The block of one run; see `TemporaryFolders.of_run`."""

    def __init__(self, folders: TemporaryFolders, stop: asyncio.Future[None] | None) -> None:
        self._folders = folders
        self._stop = stop
        self._ended = False

    def no_process_left(self) -> None:
        """Note that no process is left that was told of the folder."""
        self._ended = True

    async def __aenter__(self) -> Path:
        self._folder = await self._folders.take(self._stop)
        self._taken_at = time.monotonic()
        return self._folder.path

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folders.give_back(self._folder, self._taken_at, ended=self._ended)


def _place() -> str:
    """Return the temporary folder of the machine, as far as it is known."""
    try:
        return tempfile.gettempdir()
    except OSError:
        return "the temporary folder of this machine"


def _status(folder: Path) -> _Status:
    """Read the status of a folder, or of what was put in its place."""
    found = os.lstat(folder)
    return _Status(found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_nlink, found.st_ctime_ns)


def _remove_all(links: list[Path]) -> None:
    """Remove the folders that links name, and the links; that of a folder that cannot be removed stays."""
    for link in links:
        with suppress(OSError):  # another file, which is none of these
            base = link.readlink()
            ours = base.name.startswith(_PREFIX) and _is_ours(base)
            if not ours or _remove(base):
                link.unlink()


def _is_ours(folder: Path) -> bool:
    """Whether a folder is there, and no other user can have made it or write to it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _remove(folder: Path) -> bool:
    with suppress(OSError):
        folder.rmdir()
        return True
    with suppress(OSError):  # an agent may have put a file or a link in its place
        folder.unlink()
        return True
    if why := remove_tree(folder):
        log.warning("the temporary folder %s cannot be removed: %s", folder, why)
    return not why
