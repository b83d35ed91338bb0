"""Collects the files that a command has put into `$AGENTBUS_ARTIFACTS`, as copies that nothing changes any more.

The command may have left anything there: links, devices, FIFOs, names for another system, or a link in place of the
folder itself. Regular files with names that a coordinator can use are copied; the rest is named.
"""

import hashlib
import mimetypes
import os
import re
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentbus.errors import MessageError
from agentbus.protocol.work.file_names import MAX_PARTS, check_together, name_fault
from agentbus.protocol.work.results import BINARY, MAX_ARTIFACTS, MAX_LEFT_OUT, OWN_NAMES, LeftOut
from agentbus.visible_text import one_line

VARIABLE: Final = "AGENTBUS_ARTIFACTS"
"""Names the folder, in the environment of each command."""
FOLDER: Final = "artifacts"
"""Its name in the temporary folder of the run."""
REFUSED: Final = "the disk of the worker refuses it"
_PIECE_BYTES: Final = 1 << 20
_MAX_SEEN: Final = 10_000
"""How many entries are looked at: more than can be taken, and few enough to end soon."""
_SHOWN_CHARS: Final = 200
_TEXT_HEAD_BYTES: Final = 8_192
_FURTHER: Final = {".md": "text/markdown", ".patch": "text/x-diff", ".diff": "text/x-diff"}
"""What not all versions of Python know. Neither the system nor the user is asked: the same file has the same type."""
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True, slots=True)
class Collected:
    """A file that was copied: its name as an artifact, where the copy is, and what it is."""

    name: str
    path: Path
    bytes: int
    sha256: str
    media_type: str


@dataclass(slots=True)
class Collection:
    """What was collected, and what was not."""

    files: list[Collected] = field(default_factory=list[Collected])
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])
    left_out_count: int = 0

    @property
    def bytes(self) -> int:
        """The size of the files together."""
        return sum(file.bytes for file in self.files)

    def leave(self, name: str, why: str) -> None:
        """Note what is not taken: the first ones by name."""
        self.left_out_count += 1
        if len(self.left_out) < MAX_LEFT_OUT:
            self.left_out.append(LeftOut(one_line(name)[:_SHOWN_CHARS] or ".", why))


def has_entries(folder: Path) -> bool:
    """Whether a command has made the folder, and put something into it; or something else in its place."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
    except OSError:
        return True


def collect(folder: Path, into: Path, found: Collection, *, max_bytes: int) -> None:
    """Copy the files below a folder; no process of the command is left.

    Args:
        into: an existing folder for the copies, whose names are numbers.
        found: gets what was collected; what is in it already counts for the bounds.
        max_bytes: of all files together.

    Raises:
        OSError: a folder cannot be listed.
    """
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError:
        found.leave(FOLDER, f"${VARIABLE} is no folder any more")
        return
    seen = 0
    with _closing(root):
        for parent, name, path in _walk(root, found):
            seen += 1
            if seen > _MAX_SEEN:
                found.leave(path, f"there are more than {_MAX_SEEN} files and folders")
                return
            _take(parent, name, path, into, found, max_bytes)


def described(name: str, path: Path) -> Collected:
    """Describe a file that the worker itself has made."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        size = file.tell()
    media_type = "text/x-diff; charset=utf-8" if name.endswith(".patch") else BINARY
    return Collected(name, path, size, digest.hexdigest(), media_type)


def _walk(root: int, found: Collection) -> Iterator[tuple[int, str, str]]:
    """Yield what is not a folder: the descriptor of the folder that it lies in, its name there, and its whole name."""
    pending: list[tuple[str, ...]] = [()]
    while pending:
        parts = pending.pop()
        folder = _opened(root, parts)
        if folder is None:
            found.leave("/".join(parts), "the folder cannot be read")
            continue
        with _closing(folder):
            with os.scandir(folder) as entries:
                listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
            for name, is_folder in listed:
                path = "/".join((*parts, name))
                if not is_folder:
                    yield folder, name, path
                elif len(parts) >= MAX_PARTS:
                    found.leave(path, "it lies too deep")
                else:
                    pending.append((*parts, name))


def _opened(root: int, parts: tuple[str, ...]) -> int | None:
    """Open a folder below another, part by part, without following a link."""
    found = os.dup(root)
    for part in parts:
        with _closing(found):
            try:
                found = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found)
            except OSError:
                return None
    return found


def _take(parent: int, name: str, path: str, into: Path, found: Collection, max_bytes: int) -> None:
    fault = "it is the name of a file of the worker" if path.casefold() in OWN_NAMES else name_fault(path)
    if fault is not None:
        found.leave(path, fault)
        return
    try:
        check_together([*(file.name for file in found.files), path])
    except MessageError as error:
        found.leave(path, str(error))
        return
    if len(found.files) >= MAX_ARTIFACTS:
        found.leave(path, f"a task brings home at most {MAX_ARTIFACTS} files")
        return
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        found.leave(path, "it is a link" if _is_link(parent, name) else f"it cannot be read: {error.strerror}")
        return
    with _closing(file):
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            found.leave(path, "it is no regular file")
        elif found.bytes + about.st_size > max_bytes:
            found.leave(
                path, f"with its {about.st_size} bytes there would be more than max_artifacts_bytes: {max_bytes}"
            )
        else:
            copy = into / str(len(found.files))
            try:
                found.files.append(_copied(file, path, copy, about.st_size))
            except OSError as error:  # the disk is full: a smaller file may have room
                copy.unlink(missing_ok=True)
                found.leave(path, f"{REFUSED}: {error.strerror or error}")


def _copied(file: int, name: str, copy: Path, size: int) -> Collected:
    """Copy a file as far as it had been written when it was looked at."""
    digest, left, head = hashlib.sha256(), size, b""
    with copy.open("xb") as out:
        while left > 0 and (piece := os.read(file, min(_PIECE_BYTES, left))):
            head = head or piece[:_TEXT_HEAD_BYTES]
            digest.update(piece)
            out.write(piece)
            left -= len(piece)
    return Collected(name, copy, size - left, digest.hexdigest(), _media_type(name, head))


def _media_type(name: str, head: bytes) -> str:
    guessed, encoding = mimetypes.MimeTypes().guess_type(name)
    guessed = _FURTHER.get(os.path.splitext(name)[1].lower(), guessed)  # noqa: PTH122  # a name, not a path
    is_text = b"\0" not in head and _is_utf_8(head)
    if guessed is None or encoding is not None or _MEDIA_TYPE.fullmatch(guessed) is None:
        return "text/plain; charset=utf-8" if is_text and encoding is None else BINARY
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") and is_text else guessed


def _is_utf_8(head: bytes) -> bool:
    for cut in range(4):  # the last character may be cut
        with suppress(UnicodeDecodeError):
            head[: len(head) - cut].decode()
            return True
    return False


def _is_link(parent: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False


@contextmanager
def _closing(descriptor: int) -> Generator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
