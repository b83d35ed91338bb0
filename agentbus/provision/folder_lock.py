"""Locks a folder, so that one command changes or uses it at a time."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agentbus.config.atomic_files import why_not_written
from agentbus.errors import ConfigError

# Each change takes milliseconds; if the lock is held for longer, its holder hangs.
_TIMEOUT_S: Final = 10.0


@contextmanager
def locked(folder: Path, what: str = "the bus") -> Generator[None]:
    """Hold the lock of a folder, with `what` is in it, for the length of the block; its thread may take it again.

    The operating system releases the lock when the process ends, however it ends.

    Raises:
        ConfigError: another command holds the lock for too long, or the lock file cannot be used.
    """
    with _held(folder, what, _TIMEOUT_S) as held:
        if not held:
            raise ConfigError(
                f"another command has been changing {what} in {folder} for {_TIMEOUT_S:g} s; "
                "wait until it ends, or end it, and try again"
            )
        yield


@contextmanager
def locked_if_free(folder: Path, what: str) -> Generator[bool]:
    """Hold the lock of a folder as `locked` does, if it is free at this moment; yield whether it was.

    Raises:
        ConfigError: the lock file cannot be used.
    """
    with _held(folder, what, 0) as held:
        yield held


@contextmanager
def _held(folder: Path, what: str, timeout_s: float) -> Generator[bool]:
    from filelock import FileLock, Timeout  # noqa: PLC0415  # most commands that open a bus change nothing

    lock = FileLock(folder / ".lock", mode=0o600, is_singleton=True)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise ConfigError(f"cannot lock {what} in {folder}: {why_not_written(error)}") from None
    try:
        yield True
    finally:
        lock.release()
