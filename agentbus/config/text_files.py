"""Reading the text files that a person writes: configurations and secrets."""

import stat
from pathlib import Path
from typing import Final

from agentbus.errors import ConfigError

ENCODING: Final = "utf-8-sig"  # some editors write a byte order mark, which is no part of the text


def is_file(file: Path) -> bool:
    """Whether there is such a file. A file that cannot be examined is an error: it might be the one that counts."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"cannot look for {file}: {reason_of(error)}") from None


def reason_of(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read, in words for a person."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
