"""Reads which commit an agent has checked out, and its branches, without running git on what it may have configured.

Git would read `.git/config`, which can name programs for almost anything. So the files are read as what they are: small
texts, of which each may be missing, of another kind, or hold anything.
"""

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 4 * 1024 * 1024
"""Of `packed-refs`: a repository with 50,000 branches and tags. All other files have one line."""
_COMMIT: Final = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MAX_REFS: Final = 10_000
"""More than a person has branches; each that is no packed one is a file to read."""
_MAX_LINKS: Final = 5
"""As many as git itself follows."""


def head_of(repository: Path) -> str | None:
    """Return the id of the commit that is checked out, as the files of a `.git` folder say; None if they do not."""
    if _is_link(repository):
        return None
    name = b"HEAD"
    for _ in range(_MAX_LINKS):
        content = _read(repository / os.fsdecode(name))
        line = content.strip() if content is not None else _packed(repository, name)
        if line is None:
            return None
        if _COMMIT.fullmatch(line):
            return line.decode()
        if not line.startswith(b"ref: refs/") or b".." in line or b"\0" in line:
            return None
        name = line.removeprefix(b"ref: ")
    return None


def refs_of(repository: Path, kind: str) -> dict[str, str]:
    """Return the commits of branches, by name: `heads` of a `.git` folder, or `remotes`; the first ones of very many.

    Args:
        kind: the folder of `refs` in which they lie.
    """
    folder = repository / "refs" / kind
    if any(_is_link(path) for path in (repository, folder.parent)):
        return {}
    found = _all_packed(repository, f"refs/{kind}/".encode())
    for path in () if _is_link(folder) else _files_below(folder):
        name = os.fsencode(path.relative_to(folder).as_posix())
        if (content := _read(path)) is not None and _COMMIT.fullmatch(content.strip()):
            found[name] = content.strip()
    return {os.fsdecode(name): commit.decode() for name, commit in found.items()}


def _all_packed(repository: Path, prefix: bytes) -> dict[bytes, bytes]:
    """Return the packed commits whose names begin so, without the beginning."""
    lines = (line.partition(b" ") for line in (_read(repository / "packed-refs") or b"").splitlines())
    found = ((name, commit) for commit, _, name in lines if name.startswith(prefix) and _COMMIT.fullmatch(commit))
    return {name.removeprefix(prefix): commit for name, commit in itertools.islice(found, _MAX_REFS)}


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, through no link, and not very many."""
    pending, seen = [folder], 0
    while pending and seen < _MAX_REFS:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif not entry.is_symlink():
                    yield Path(entry.path)


def excludes_of(repository: Path) -> bytes:
    """Return the agent's own list of files that are to be ignored; nothing where it cannot be read."""
    if _is_link(repository) or _is_link(repository / "info"):
        return b""
    return _read(repository / "info" / "exclude") or b""


def _packed(repository: Path, name: bytes) -> bytes | None:
    content = _read(repository / "packed-refs") or b""
    for line in content.splitlines():
        commit, _, found = line.partition(b" ")
        if found == name and _COMMIT.fullmatch(commit):
            return commit
    return None


def _read(path: Path) -> bytes | None:
    """Read a small regular file; None for anything else. Links are not followed, and a FIFO is not waited for."""
    with contextlib.suppress(OSError, ValueError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            about = os.fstat(file)
            if stat.S_ISREG(about.st_mode) and about.st_size <= _MAX_BYTES:
                return os.read(file, _MAX_BYTES)
        finally:
            os.close(file)
    return None


def _is_link(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return True
