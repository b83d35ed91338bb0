"""The worker's state on disk: a locked folder for each bus, agent and instance.

`<state_dir>/<bus>/<agent>/<slot>/` with `lock`, `outbox/`, `children/` and `tmp/`. A starting worker takes the first
slot that nobody holds; whatever dead workers have left in the other free slots it is given to recover as well. The
slot of a living worker is locked, so nobody ever touches it.
"""

import fcntl
import hashlib
import itertools
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from agentbus.config import ServerUrl
from agentbus.errors import ConfigError

PART_SUFFIX: Final = ".part"
"""Of a file that is being written, until it is there whole."""


class Slot:
    """One instance's folder, held under its lock until it is released."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock
        self.outbox = path / "outbox"
        self.children = path / "children"
        self.tmp = path / "tmp"

    def prepare(self) -> None:
        """Make the folders, readable by this user alone, and clear what a dead worker left in `tmp` or half written."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        for folder in (self.outbox, self.children, self.tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in folder.glob("*" + PART_SUFFIX):
                part.unlink(missing_ok=True)

    def release(self) -> None:
        """Let other workers have the slot."""
        self._lock.close()


@contextmanager
def locked_state(state_dir: Path, urls: tuple[ServerUrl, ...], agent: str) -> Generator[list[Slot]]:
    """Lock every slot that nobody holds, for the length of the block: the first is one's own.

    The others were left by dead workers: recover what is in them, then `release()` them.

    Raises:
        ConfigError: the folder cannot be made or locked.
    """
    base = state_dir / _bus_key(urls) / agent
    slots: list[Slot] = []
    try:
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in _candidates(base):
                if slots and not path.exists():
                    break
                if (slot := _try_lock(path)) is not None:
                    slots.append(slot)
                    slot.prepare()
        except OSError as error:
            raise ConfigError(
                f"cannot keep state in {base}: {error.strerror or error}; set state_dir in [worker]"
            ) from None
        yield slots
    finally:
        for slot in slots:
            slot.release()


def _candidates(base: Path) -> Iterator[Path]:
    """The existing slots, then new ones for as long as they are asked for."""
    existing = sorted(int(path.name) for path in base.iterdir() if path.name.isdigit())
    yield from (base / str(number) for number in existing)
    yield from (base / str(number) for number in itertools.count() if number not in existing)


def _try_lock(path: Path) -> Slot | None:
    path.mkdir(mode=0o700, exist_ok=True)
    lock = (path / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return Slot(path, lock)


def _bus_key(urls: tuple[ServerUrl, ...]) -> str:
    """A name for the bus that can be read and is one folder: its first server, and a digest of all of them."""
    names = sorted(f"{url.host}:{url.port}" for url in urls)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    readable = "".join(char if char.isalnum() or char in "-." else "_" for char in names[0])
    return f"{readable[:80]}-{digest}"


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a crash of the machine.

    Raises:
        OSError: the disk is full, or the folder is gone.
    """
    part = path.with_name(path.name + PART_SUFFIX)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
