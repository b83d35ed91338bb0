"""Names of files that one machine sends to another: what they may be, checked before a path is made of one.

A worker lays files under such names, and a coordinator writes what an agent has left. So a name must mean one file
below one folder, on each system that either may run, and nothing else: no other folder, no device, no inside of a
repository.
"""

import unicodedata
from collections.abc import Iterable
from typing import Final

from agentbus.errors import MessageError
from agentbus.visible_text import is_hidden

MAX_NAME_BYTES: Final = 512
"""Of a whole name in UTF-8: with the folder that it is laid into, it stays below what systems take for a path."""
MAX_PART_BYTES: Final = 200
"""Of one part: file systems take 255, and a name is made longer while its file is written."""
MAX_PARTS: Final = 16
"""How deep a file may lie."""
_RESERVED_CHARS: Final = frozenset('\\:*?"<>|')
"""What Windows does not take in a name, or takes for a folder, a drive or a stream of a file."""
_DEVICES: Final = frozenset(
    (
        *("con", "prn", "aux", "nul", "conin$", "conout$", "clock$"),
        *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\u00b9\u00b2\u00b3"),
    )
)
_GIT: Final = ".git"


def name_fault(name: str) -> str | None:
    """Return what is wrong with the name of a file, for a person; None if it can be used.

    Parts are separated by `/`, and may stand for folders.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it is not UTF-8"
    if not name or size > MAX_NAME_BYTES:
        return f"it has {size} bytes, and may have 1 to {MAX_NAME_BYTES}"
    if unicodedata.normalize("NFC", name) != name:
        return "it is not in the normal form NFC, so that systems could take it for another"
    parts = name.split("/")
    if len(parts) > MAX_PARTS:
        return f"it has {len(parts)} parts, and may have {MAX_PARTS}"
    return next((fault for part in parts if (fault := _part_fault(part)) is not None), None)


def _part_fault(part: str) -> str | None:
    """Return what is wrong with one part of a name."""
    if part in ("", ".", ".."):
        return "it is an absolute path, or holds an empty part, `.` or `..`"
    if len(part.encode()) > MAX_PART_BYTES:
        return f"a part has more than {MAX_PART_BYTES} bytes"
    if any(is_hidden(char) for char in part):
        return "it holds a character that cannot be seen"
    if _RESERVED_CHARS.intersection(part):
        return 'it holds one of \\ : * ? " < > |'
    if part[0] in " -~" or part[-1] in " .":
        return "a part begins with a space, - or ~, or ends with a space or a dot"
    folded = _folded(part)
    # Windows has a second, short name for a folder: `GIT~1` is `.git`.
    if folded == _GIT or folded.startswith("git~"):
        return "it leads into a repository"
    if folded.partition(".")[0].rstrip() in _DEVICES:
        return "it is the name of a device on Windows"
    return None


def check_name(name: str) -> str:
    """Return a name that can be used.

    Raises:
        ValueError: it cannot be, and why.
    """
    if (fault := name_fault(name)) is not None:
        raise ValueError(f"no name for a file: {fault}")
    return name


def check_together(names: Iterable[str]) -> None:
    """Check that names can be used in one folder: none twice, none a folder of another, in upper or lower case.

    Raises:
        MessageError: two cannot.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        whole = _folded(name)
        if (other := files.get(whole) or folders.get(whole)) is not None:
            raise MessageError(f"the names {other!r} and {name!r} cannot stand in one folder on every system")
        files[whole] = name
        for count in range(1, len(parts)):
            written = "/".join(parts[:count])
            folder = _folded(written)
            if folder in files or folders.setdefault(folder, written) != written:
                other = files.get(folder) or folders[folder]
                raise MessageError(f"the names {other!r} and {name!r} cannot stand in one folder on every system")


def _folded(text: str) -> str:
    """Return a name as a system sees it that knows no difference of case, nor characters that it leaves out."""
    return unicodedata.normalize("NFKC", text).casefold()
