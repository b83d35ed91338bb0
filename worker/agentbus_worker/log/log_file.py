"""Chooses the log file of a worker: each that runs has one of its own, so none waits for another that stands still."""

import fcntl
import itertools
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LOG_FILE: Final = "agentbus-worker.log"
_STEM: Final = LOG_FILE.removesuffix(".log")
_OWNER_SUFFIX: Final = ".owner"
_OWNER_FILE: Final = 0o600


@contextmanager
def own_log_file(folder: Path, agent: str, state_dir: Path) -> Generator[Path]:
    """Hold a log file of `folder` for the length of the block.

    It is `agentbus-worker.log` for the first agent that logs there, and `agentbus-worker-<agent>.log` for others; where
    several workers of an agent run at once, as many have a state folder, further ones have a number. The file belongs
    to the agent and its `state_dir` for good, so a worker that starts again goes on with what it had.

    Raises:
        OSError: the folder cannot be written to.
    """
    for name in _names(agent):
        lock = os.open(folder / f"{name}{_OWNER_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_FILE)
        try:
            if _is_taken(lock, f"{agent} {state_dir}\n".encode(errors="surrogateescape")):
                yield folder / name
                return
        finally:
            os.close(lock)


def _names(agent: str) -> Iterator[str]:
    yield LOG_FILE
    yield f"{_STEM}-{agent}.log"
    yield from (f"{_STEM}-{agent}-{number}.log" for number in itertools.count(2))


def _is_taken(lock: int, owner: bytes) -> bool:
    """Lock a file, and write the owner into it; returns False if it belongs to another one, or to a living worker."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if os.pread(lock, len(owner) + 1, 0) not in (b"", owner):
        return False
    os.pwrite(lock, owner, 0)
    return True
