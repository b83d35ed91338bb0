"""Files that hold secrets, or what depends on them: readable by their owner alone from the first moment on."""

import os
from pathlib import Path
from typing import BinaryIO

from agentbus.errors import ConfigError

_OWNER_FILE = 0o600
_OWNER_FOLDER = 0o700
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends


def private_folder(path: Path) -> None:
    """Make a folder, unless it is there, that only its owner can enter."""
    try:
        path.mkdir(mode=_OWNER_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {path}: {error.strerror}") from None


def write_private(path: Path, content: str | bytes, *, replace: bool = False) -> None:
    """Write a file for its owner alone; readers see the old content or the new one, never a part.

    It is on the disk when this returns, and so are the files that were written before it.

    Raises:
        ConfigError: it exists and `replace` is false, or it cannot be written.
    """
    if path.exists() and not replace:
        raise ConfigError(f"{path} exists already; it was left as it is")
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    data = content if isinstance(content, bytes) else content.encode()
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_FILE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        if os.name == "posix":  # the new name as well; Windows has no way to ask for it
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def open_private(path: Path) -> BinaryIO:
    """Open a new file for its owner alone, to be written piece by piece.

    Raises:
        ConfigError: it exists, or cannot be made.
    """
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, _OWNER_FILE), "wb")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
