"""Keeps which sessions of the agent this place has: a record for each on disk, and a lock for one process at a time.

They lie in the folder `conversations` beside the numbered state folders, so every worker of the place finds them. A
record goes after `session_days` without use, and with it the working folder of the session, where that is not to be
kept for longer. The files in which the agent itself keeps its sessions are left to the agent.
"""

import contextlib
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from pydantic import TypeAdapter, ValidationError

from agentbus.protocol.conversations.continuation import is_session_id
from agentbus.protocol.subjects import TaskKey, is_agent_id, is_task_id
from agentbus_worker.disk.file_lock import locked_within, try_lock
from agentbus_worker.formats.reading import Totals
from agentbus_worker.running.folders.working_folder import remove_tree
from agentbus_worker.state_folder import write_atomically

log = logging.getLogger("agentbus.worker")

DAY_S: Final = 86_400.0
_LOCK_S: Final = 10.0
"""Taking the lock of a session takes milliseconds."""
_MAX_RECORD_BYTES: Final = 65_536
_APPROVAL: Final = ".approval"
_APPROVAL_DAYS: Final = 8
"""The stream of tasks keeps an answer for seven days: within these it may be delivered again."""
_POINTER: Final = ".task"
"""The suffix of a file with the id of the session that the last run of a task began, as long as it has not ended."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session that this place has.

    Attributes:
        id: as the agent names it.
        kind: the format of the agent, which another agent cannot go on with.
        owner: the coordinator whose task began it.
        task: the task that ran in it last.
        run_id: of that run: its processes are found by it.
        folder: where it runs; the agents find a session there alone.
        ours: whether the folder goes with the record.
        totals: what the agent has counted over the session, so that the next run can be told apart.
        open_call: what the agent calls the use of a tool before which its last run has ended, to ask.
        cut: whether that run has not ended by itself, as far as is known; then it has counted more.
        digest: of the task, if another run of the task may go on with what it began.
    """

    id: str
    kind: str
    owner: str
    task: str
    run_id: str
    folder: str
    ours: bool = False
    used_at: float = 0.0
    totals: Totals = field(default_factory=Totals)
    open_call: str = ""
    cut: bool = False
    digest: str = ""


class SessionLock:
    """Has a session for this process until it is released. The system releases it when the process ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let another process have the session."""
        self._file.close()


class Sessions:
    """The sessions of one place. Its methods touch the disk: call them on a thread for that.

    Args:
        folder: where the records lie.
        days: for how long a record is kept that is not used.
        clock: the time since the epoch; a parameter for tests.
    """

    def __init__(self, folder: Path, *, days: float = 14, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._days = days
        self._clock = clock

    def take(self, session: str) -> SessionLock | None:
        """Take the lock of a session; None if another run has it.

        Raises:
            OSError: the disk refuses it.
        """
        with self._all():
            lock = try_lock(self._path(session, ".lock"))
        return SessionLock(lock) if lock is not None else None

    def read(self, session: str) -> Session | None:
        """Read the record of a session; None if there is none that is valid.

        Raises:
            OSError: the disk refuses it.
        """
        found = _read(self._path(session, ".json"))
        return found if found is not None and found.id == session else None

    def write(self, session: Session) -> None:
        """Write the record of a session that this process has the lock of: it was used just now.

        Raises:
            OSError: the disk refuses it.
        """
        with self._all():
            record = {**asdict(session), "used_at": self._clock()}
            write_atomically(self._path(session.id, ".json"), json.dumps(record).encode())

    def cut_run(self, owner: str, task: str, digest: str) -> Session | None:
        """Read the record of the session that a run of a task began, and that another run of it may go on with.

        Raises:
            OSError: the disk refuses it.
        """
        try:
            name = self._pointer(owner, task).read_bytes()[:_MAX_RECORD_BYTES].decode(errors="replace")
        except FileNotFoundError:
            return None
        found = self.read(name)
        said = None if found is None else (found.owner, found.task, found.digest, found.cut)
        return found if said == (owner, task, digest, True) else None

    def point(self, session: Session) -> None:
        """Have `cut_run` find a session by its task. This process has the lock of the session.

        Raises:
            OSError: the disk refuses it.
        """
        write_atomically(self._pointer(session.owner, session.task), session.id.encode())

    def unpoint(self, owner: str, task: str) -> None:
        """Let no further run of a task go on with what one began.

        Raises:
            OSError: the disk refuses it.
        """
        self._pointer(owner, task).unlink(missing_ok=True)

    def forget(self, session: str) -> None:
        """Remove the record of a session that the agent no longer has, with its folder; an error of the disk is logged.

        This process has its lock.
        """
        with contextlib.suppress(OSError), self._all():
            self._remove(self._path(session, ".json"))

    def approval(self, asked: TaskKey, digest: str) -> Path:
        """Return the file that stands for the one use of an approval, which it is that makes it."""
        name = hashlib.sha256(f"{asked.owner} {asked.id} {digest}".encode()).hexdigest()[:32]
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder / f"{name}{_APPROVAL}"

    def remove_old(self) -> None:
        """Remove the records that were not used for long, with their folders; those that are in use stay."""
        with contextlib.suppress(OSError), self._all():
            for path in self._folder.glob(f"*{_APPROVAL}"):
                if self._clock() - path.stat().st_mtime >= max(self._days, _APPROVAL_DAYS) * DAY_S:
                    path.unlink(missing_ok=True)
            for path in sorted(self._folder.glob("*.json")):
                self._remove_if_old(path)
            for path in sorted(self._folder.glob("*" + _POINTER)):
                if self._clock() - path.stat().st_mtime >= self._days * DAY_S:
                    path.unlink(missing_ok=True)

    def _remove_if_old(self, path: Path) -> None:
        found = _read(path)
        if found is not None and self._clock() - found.used_at < self._days * DAY_S:
            return
        with contextlib.suppress(OSError):
            lock_path = path.with_suffix(".lock")
            if (lock := try_lock(lock_path)) is not None:
                with lock:
                    self._remove(path)
                    lock_path.unlink(missing_ok=True)  # all locks are taken under that of the folder

    def _remove(self, path: Path) -> None:
        found = _read(path)
        path.unlink(missing_ok=True)
        if found is None or not found.ours or any(other.folder == found.folder for other in self._records()):
            return
        if why := remove_tree(Path(found.folder)):
            log.warning("the working folder %s cannot be removed: %s", found.folder, why)

    def _records(self) -> Iterator[Session]:
        for path in self._folder.glob("*.json"):
            if (found := _read(path)) is not None:
                yield found

    @contextlib.contextmanager
    def _all(self) -> Generator[None]:
        """Hold the lock of the whole folder, which is made where it is missing."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_within(self._folder / "lock", _LOCK_S):
            yield

    def _pointer(self, owner: str, task: str) -> Path:
        return self._path(f"{owner}~{task}", _POINTER)

    def _path(self, session: str, suffix: str) -> Path:
        """Return a path that the agent, which names the session, has no say in."""
        return self._folder / f"{hashlib.sha256(session.encode()).hexdigest()[:32]}{suffix}"


@functools.cache
def _adapter() -> TypeAdapter[Session]:
    return TypeAdapter(Session)


def _read(path: Path) -> Session | None:
    """Read a record; None if there is none, or one that no worker has written."""
    try:
        with path.open("rb") as file:
            found = _adapter().validate_json(file.read(_MAX_RECORD_BYTES))
    except (FileNotFoundError, ValidationError):
        return None
    is_ours = is_session_id(found.id) and is_agent_id(found.owner) and is_task_id(found.task)
    return found if is_ours else None
