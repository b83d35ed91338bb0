"""Says what is wrong with the file of a program that the system does not start."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_FIRST_LINE_BYTES: Final = 256
"""Linux reads no more of a `#!` line."""


def why_not_executed(number: int, program: str, env: Mapping[str, str], folder: Path | None) -> str:
    """Return what the file of a program explains of an error of the system; empty if it explains nothing.

    Args:
        number: the error, ENOENT or ENOEXEC.
        env: the environment of the command, on whose PATH the program is looked for.
        folder: where the command would have run, from which relative paths begin.
    """
    file = _file_of(program, env, folder or Path())
    if file is None:
        return ""
    head = _head_of(file)
    if number == errno.ENOENT:  # the file is there, so it is what its first line names that is not
        crlf = head is not None and head.startswith(b"#!") and head.partition(b"\n")[0].endswith(b"\r")
        why = ": its #! line ends in a carriage return; save it with the line ends of Unix" if crlf else ""
        return f"its interpreter does not exist{why}"
    if head == b"":
        return "it is empty"
    return "it has no #! line" if head is not None and b"\0" not in head and not head.startswith(b"#!") else ""


def _file_of(program: str, env: Mapping[str, str], folder: Path) -> Path | None:
    entries = [""] if "/" in program else env.get("PATH", os.defpath).split(os.pathsep)
    places = (folder / entry / program for entry in entries)
    return next((place for place in places if place.is_file()), None)


def _head_of(file: Path) -> bytes | None:
    """Return the beginning of a file; None if this user may run it, but not read it."""
    try:
        with file.open("rb") as opened:
            return opened.read(_FIRST_LINE_BYTES)
    except OSError:
        return None
