"""Says whether what failed at a repository lies in this machine, whose disk is full, or in the task and the source."""

import contextlib
import shutil
from pathlib import Path
from typing import Final

from agentbus.errors import CommandError, GitError, MachineFaultError, WorkspaceError

_OF_THE_DISK: Final = (
    "No space left on device",
    "Out of diskspace",
    "Disk quota exceeded",
    "File too large",
    "Read-only file system",
    "Input/output error",
)
"""What git says of a disk, in the language of the fixed settings."""
_FULL_BYTES: Final = 1 << 20
"""A disk with less room is full, whatever git says: of a file in a checkout it says only that it cannot write it."""


def fault_of(what: str, error: GitError | OSError, folder: Path) -> CommandError:
    """Return the error of a step that failed: a full disk is no fault of the task, which waits for another worker.

    Args:
        what: failed, as the message begins.
        folder: that was written to, or one above it.
    """
    said = str(error) if isinstance(error, GitError) else error.strerror or str(error)
    is_of_disk = isinstance(error, OSError) or any(text in said for text in _OF_THE_DISK) or _is_full(folder)
    return (MachineFaultError if is_of_disk else WorkspaceError)(f"{what}: {said}")


def _is_full(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < _FULL_BYTES
    return False
