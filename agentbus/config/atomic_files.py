"""Replaces files as a whole: a reader sees the old content or the new one, whenever the writer dies."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

OWNER_ONLY: Final = 0o600
_AS_THE_UMASK_SAYS: Final = 0o666
_BINARY: Final = getattr(os, "O_BINARY", 0)  # Windows would translate line ends
_FIXES: Final = {
    errno.EACCES: "make its folder writable for this user",
    errno.EPERM: "make its folder writable for this user",
    errno.EROFS: "take a file system that can be written to",
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space on its disk",
    errno.ENOTDIR: "a file is in the place of a folder of this path; move it away",
    errno.EEXIST: "a file is in the place of a folder of this path; move it away",
    errno.EISDIR: "a folder has this name; move it away",
}


def replace_file(
    path: Path, data: bytes, *, mode: int | None = OWNER_ONLY, part: Path | None = None, durable: bool = True
) -> None:
    """Write a file that is there whole or not at all. If this fails, what was there stays as it was.

    Args:
        mode: of the file; None keeps mode and owner of the one that is replaced, and makes a new one as the umask says.
        part: where it is written at first; a hidden name beside it if None.
        durable: whether it is on the disk when this returns, and with it the files that were written before it.

    Raises:
        OSError: it cannot be written; `why_not_written` says what to do.
    """
    part = part or path.with_name(f".{path.name}.{os.getpid()}.part")
    old = _stat(path) if mode is None else None
    try:
        part.unlink(missing_ok=True)  # of a process that had this id and was killed
        with open_to_write(part, _AS_THE_UMASK_SAYS if mode is None and old is None else OWNER_ONLY) as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if old is not None:
            _keep(old, part)
        elif mode not in (None, OWNER_ONLY):
            part.chmod(mode)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def open_to_write(path: Path, mode: int, *, truncate: bool = False) -> BinaryIO:
    """Open a file for writing, which has this mode, less the umask, from the first moment on.

    Args:
        truncate: whether it may exist; it then loses its content and keeps its mode.

    Raises:
        OSError: it cannot be opened, or exists and must not.
    """
    there = os.O_TRUNC if truncate else os.O_EXCL
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | there | _BINARY, mode), "wb")


def sync_to_disk(path: Path) -> None:
    """Make a written file survive a crash of the machine. One that has been removed meanwhile need not.

    Raises:
        OSError: the disk does not take it.
    """
    with suppress(FileNotFoundError):
        _sync(path)
        _sync_folder(path.parent)


def why_not_written(error: OSError) -> str:
    """Why a file or a folder cannot be written, and what to do about it."""
    fix = _FIXES.get(error.errno or 0)
    return f"{error.strerror or error}{f'; {fix}' if fix else ''}"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _keep(old: os.stat_result, part: Path) -> None:
    """Give the new file the owner and then the mode of the old one; an owner is not changed without the right to."""
    if os.name == "posix":
        with suppress(PermissionError):
            os.chown(part, old.st_uid, old.st_gid)
    part.chmod(stat.S_IMODE(old.st_mode))


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows has no way to ask for it
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
