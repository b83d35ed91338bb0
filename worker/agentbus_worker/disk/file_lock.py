"""Locks between the workers of one machine. The system releases them when their process ends, however it ends.

They use flock in all releases, so workers of different releases exclude each other. The bus folder uses filelock,
because operators change it on Windows too; filelock does not guarantee a kind of lock.
"""

import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agentbus.config.private_files import open_private

_POLL_S = 0.02


def try_lock(path: Path) -> BinaryIO | None:
    """Take the lock of a file, which is made for this user alone; None if another has it. Closing it releases it.

    Raises:
        OSError: the file cannot be made.
    """
    lock = open_private(path, truncate=True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except BaseException:
        lock.close()
        raise
    return lock


@contextmanager
def locked_within(path: Path, timeout_s: float) -> Generator[None]:
    """Hold the lock of a file, which is made for this user alone, for the length of the block.

    Raises:
        TimeoutError: another has held it for `timeout_s`.
        OSError: the file cannot be made.
    """
    deadline = time.monotonic() + timeout_s
    while (lock := try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"another worker has held {path} for {timeout_s:g} s")
        time.sleep(_POLL_S)
    with lock:
        yield


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the lock of a file, which is made for this user alone; waits for it as long as it takes.

    Raises:
        OSError: the file cannot be made.
    """
    with open_private(path, truncate=True) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
