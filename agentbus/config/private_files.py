"""Files that hold secrets, or what depends on them: readable by their owner alone from the first moment on."""

from pathlib import Path
from typing import BinaryIO

from agentbus.config.atomic_files import OWNER_ONLY, open_to_write, replace_file, why_not_written
from agentbus.errors import ConfigError

_OWNER_FOLDER = 0o700


def private_folder(path: Path) -> None:
    """Make a folder, unless it is there, that only its owner can enter.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(mode=_OWNER_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {path}: {why_not_written(error)}") from None


def write_private(path: Path, content: str | bytes, *, replace: bool = False) -> None:
    """Write a file for its owner alone; readers see the old content or the new one, never a part.

    It is on the disk when this returns, and so are the files that were written before it.

    Raises:
        ConfigError: it exists and `replace` is false, or it cannot be written.
    """
    try:
        if path.exists() and not replace:
            raise ConfigError(f"{path} exists already; it was left as it is")
        replace_file(path, content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {why_not_written(error)}") from None


def open_private(path: Path, *, truncate: bool = False) -> BinaryIO:
    """Open a file for its owner alone, to be written piece by piece.

    Args:
        truncate: whether it may exist; it then loses its content and keeps its mode.

    Raises:
        OSError: it cannot be opened, or exists and must not.
    """
    return open_to_write(path, OWNER_ONLY, truncate=truncate)
