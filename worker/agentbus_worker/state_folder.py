"""Holds the worker's state on disk: a locked folder for each bus, agent and instance.

Its path is `<state_dir>/<bus>/<agent>/<number>/`; it has a `lock`, `outbox/`, `children/`, `claims/`, `temporary/`,
`parcels/` and `tmp/`. A starting worker takes the first folder that is not locked, and moves the contents of the other
unlocked folders, which dead workers left, into it. It holds `<agent>/lock` meanwhile. So no more folders are made than
workers ran at the same time.
"""

import hashlib
import itertools
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from agentbus.config.atomic_files import replace_file
from agentbus.config.urls import ServerUrl
from agentbus.errors import ConfigError
from agentbus_worker.disk.file_lock import locked_within, try_lock

PARCELS: Final = "parcels"
PART_SUFFIX: Final = ".part"
"""The suffix of a file until it is completely written."""
_LOCK_TIMEOUT_S: Final = 10.0
"""Taking a folder takes milliseconds."""


class StateFolder:
    """One instance's folder, held under its lock until it is released, or for the length of a `with` block."""

    def __init__(self, path: Path, lock: BinaryIO) -> None:
        self.path = path
        self._lock = lock
        self.outbox = path / "outbox"
        self.children = path / "children"
        self.claims = path / "claims"
        self.temporary = path / "temporary"
        self.parcels = path / PARCELS
        self.tmp = path / "tmp"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def place(self) -> str:
        """A name of this folder that no other machine has for one of its own; it tells nothing of where it lies."""
        digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:8]
        return f"{socket.gethostname().split('.')[0][:64]}-{digest}"

    def prepare(self) -> None:
        """Make the folders, private to this user. Remove what a dead worker left in `tmp`, and incomplete files."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        for folder in (self.outbox, self.children, self.claims, self.temporary, self.parcels, self.tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in folder.glob("*" + PART_SUFFIX):
                part.unlink(missing_ok=True)

    def take_over(self, other: "StateFolder") -> None:
        """Move the outcomes, the work and the records of children, claims and folders of a dead worker into this one.

        Those of the claims go last: what they need is here before they are.
        """
        other.prepare()
        for link in other.temporary.iterdir():
            link.rename(self.temporary / link.name)
        for parcel in other.parcels.iterdir():
            parcel.rename(self.parcels / parcel.name)  # the nonce of a claim
        moved = ((other.outbox, self.outbox), (other.children, self.children), (other.claims, self.claims))
        for theirs, ours in moved:
            for path in (*theirs.glob("*.json"), *theirs.glob("*.claims")):
                path.rename(ours / path.name)  # the name is a random nonce, run id or token, so it is unique

    def release(self) -> None:
        """Unlock the folder for other workers."""
        self._lock.close()


def lock_state(state_dir: Path, urls: tuple[ServerUrl, ...], agent: str) -> StateFolder:
    """Lock a state folder, with the outcomes and records that dead workers left, until it is released.

    It blocks for as long as the disk takes, and up to ten seconds for the lock of another worker that starts.

    Raises:
        ConfigError: the folder cannot be made or locked.
    """
    base = (state_dir / _bus_key(urls) / agent).absolute()
    folder: StateFolder | None = None
    try:
        for parent in (base.parent.parent, base.parent, base):
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_within(base / "lock", _LOCK_TIMEOUT_S):
            folder = _first_free(base)
            folder.prepare()
            for other in _all_free(base):
                folder.take_over(other)
                other.release()
    except OSError as error:
        if folder is not None:
            folder.release()
        raise ConfigError(
            f"cannot keep state in {base}: {error.strerror or error}; set state_dir in [worker]"
        ) from None
    return folder


def _first_free(base: Path) -> StateFolder:
    for number in itertools.count():
        if (folder := _try_folder(base / str(number))) is not None:
            return folder
    raise AssertionError("there is no last number")


def _all_free(base: Path) -> Iterator[StateFolder]:
    for path in sorted(base.iterdir()):
        if path.name.isdigit() and (folder := _try_folder(path)) is not None:
            yield folder


def _try_folder(path: Path) -> StateFolder | None:
    path.mkdir(mode=0o700, exist_ok=True)
    lock = try_lock(path / "lock")
    return None if lock is None else StateFolder(path, lock)


def _bus_key(urls: tuple[ServerUrl, ...]) -> str:
    """Return the folder name of a bus: its first server, for people, and a digest of all its servers."""
    names = sorted(f"{url.host}:{url.port}" for url in urls)  # without brackets, as in the folders that there are
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    readable = "".join(char if char.isalnum() or char in "-." else "_" for char in names[0])
    return f"{readable[:80]}-{digest}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, private to this user, completely or not at all, whenever this process dies.

    Raises:
        OSError: the disk is full, or the folder is gone.
    """
    # Not durable: an fsync for each command would take longer than the rest of its start.
    replace_file(path, data, part=path.with_name(path.name + PART_SUFFIX), durable=False)
