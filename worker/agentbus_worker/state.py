"""The worker's state on disk: a locked folder for each bus, agent and instance.

`<state_dir>/<bus>/<agent>/<slot>/` with `lock`, `outbox/`, `children/` and `tmp/`. A starting worker takes the first
slot that nobody holds; whatever dead workers have left in the other free slots it is given to recover as well. The
slot of a living worker is locked, so nobody ever touches it.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from agentbus.config import ServerUrl
from agentbus.errors import ConfigError

_MOST_SLOTS: Final = 10_000


class Slot:
    """One instance's folder, held under its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outbox = path / "outbox"
        self.children = path / "children"
        self.tmp = path / "tmp"

    def prepare(self) -> None:
        """Make the folders, readable by this user alone, and clear what a dead worker left in `tmp`."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        for folder in (self.outbox, self.children, self.tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def locked_state(state_dir: Path, urls: tuple[ServerUrl, ...], agent: str) -> Generator[tuple[Slot, list[Slot]]]:
    """Hold a slot of one's own for the length of the block; also those of dead workers, until they are recovered.

    Yields the own slot and the abandoned ones (not the own one, which may hold work to recover too).

    Raises:
        ConfigError: the folder cannot be made or locked.
    """
    base = state_dir / _bus_key(urls) / agent
    with ExitStack() as stack:
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = list(_free_slots(base, stack))
            own, *abandoned = free
            for slot in free:
                slot.prepare()
        except OSError as error:
            raise ConfigError(
                f"cannot keep state in {base}: {error.strerror or error}; set state_dir in [worker]"
            ) from None
        yield own, abandoned


def _free_slots(base: Path, stack: ExitStack) -> Iterator[Slot]:
    """Lock every slot that nobody holds: the existing ones, and a new one if there is none."""
    existing = sorted(int(path.name) for path in base.iterdir() if path.name.isdigit())
    found = False
    for number in existing:
        if _try_lock(base / str(number), stack):
            found = True
            yield Slot(base / str(number))
    if found:
        return
    for number in range(_MOST_SLOTS):
        if number not in existing and _try_lock(base / str(number), stack):
            yield Slot(base / str(number))
            return
    raise ConfigError(f"there are {_MOST_SLOTS} workers with their state in {base}")


def _try_lock(path: Path, stack: ExitStack) -> bool:
    path.mkdir(mode=0o700, exist_ok=True)
    file = stack.enter_context((path / "lock").open("a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
    part = path.with_name(path.name + ".part")
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
