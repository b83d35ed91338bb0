"""Makes the working folder of a task, and removes it again if it is not to be kept."""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from agentbus.errors import MachineFaultError
from agentbus_worker.disk.threads import AT_ONCE, DiskThreads

log = logging.getLogger("agentbus.worker")

_OWNER_ONLY: Final = 0o700
_REMOVAL_S: Final = 60.0
"""How long a task waits for its folder to be gone: large trees take less, a disk that stands still more."""


def working_folder(
    base: Path | None,
    name: str,
    *,
    keep: Callable[[], bool],
    threads: DiskThreads = AT_ONCE,
    stop: asyncio.Future[None] | None = None,
) -> AbstractAsyncContextManager[Path | None]:
    """Make a folder in `base` for the length of the block; None if there is no `base`.

    One that is there is taken as it is: a later attempt finds the files of an earlier one. What cannot be removed at
    the end is logged.

    Args:
        keep: whether it stays, asked at the end.
        threads: make and remove it: a large tree takes seconds, and leases have to be renewed meanwhile.
        stop: once this is done, a disk that does not answer is not waited for.

    Raises:
        MachineFaultError: it cannot be made, or the disk does not answer.
    """
    return nullcontext() if base is None else _made(base / name, keep, threads, stop)


@asynccontextmanager
async def _made(
    folder: Path, keep: Callable[[], bool], threads: DiskThreads, stop: asyncio.Future[None] | None
) -> AsyncGenerator[Path]:
    try:
        await threads.run(lambda: folder.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True), stop=stop)
    except OSError as error:
        raise MachineFaultError(f"the working folder {folder} cannot be made: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        if not keep() and (why := await _removed(folder, threads)):
            log.warning("the working folder %s cannot be removed: %s", folder, why)


async def _removed(folder: Path, threads: DiskThreads) -> str:
    """Remove a folder; returns why something is left, or nothing."""
    try:
        return await threads.run(lambda: remove_tree(folder), timeout_s=_REMOVAL_S)
    except TimeoutError as error:
        return f"{error.strerror}; it goes on"


def remove_tree(folder: Path) -> str:
    """Remove a folder with everything in it, also what is read-only; returns why something is left, or nothing.

    Package managers write-protect their caches, and without the right to write to a folder nothing in it can go.
    """
    with suppress(OSError):
        shutil.rmtree(folder)
        return ""
    _make_writable(folder)
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # all else, so that what is left is little
        return f"{error.strerror or error}: {error.filename}" if folder.exists() else ""
    return ""


def _make_writable(folder: Path) -> None:
    """Give the owner of all folders of a tree all rights in them. Links are not followed."""
    left = [] if folder.is_symlink() else [folder]
    while left:
        path = left.pop()
        with suppress(OSError):
            path.chmod(_OWNER_ONLY)
            with os.scandir(path) as entries:
                left += [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
