"""Finds what of the files of a clone is to be committed for the agent, and puts it into the index of the worker.

The agent may have left anything: links, FIFOs, repositories within, names that git refuses, files of any size. What is
not taken is named.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from agentbus.errors import GitError
from agentbus.git.running import Git
from agentbus.protocol.work.results import LeftOut
from agentbus.visible_text import one_line
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.repositories.secret_names import looks_like_a_secret

MAX_FILES: Final = 200_000
"""How many files an agent may leave uncommitted: a folder of installed packages that no ignore file names has less."""
_MAX_REFUSED: Final = 20
"""How many names that git refuses are looked for; each costs some commands."""
_SHOWN_CHARS: Final = 200


@dataclass(slots=True)
class LeftFiles:
    """What was left out: the first ones by name, and how many there are."""

    count: int = 0
    listed: list[LeftOut] = field(default_factory=list[LeftOut])

    def add(self, name: str, why: str, *, count: int = 1) -> None:
        """Note something."""
        self.count += count
        if len(self.listed) < _MAX_REFUSED:
            self.listed.append(LeftOut(one_line(name)[:_SHOWN_CHARS] or ".", why))


async def stage(git: Git, left: LeftFiles, *, max_bytes: int, timeout_s: float, threads: DiskThreads) -> None:
    """Put all changed files into the index, which has the commit that is checked out.

    Args:
        left: gets what is not taken.
        max_bytes: of a file; larger ones are not taken.

    Raises:
        GitError: git failed, or did not end in time.
    """
    listing = ("ls-files", "-z", "--others", "--exclude-standard")
    new = (await git.run(*listing, timeout_s=timeout_s)).names
    comparing = ("diff-files", "-z", "--name-only", "--ignore-submodules=all", "--no-ext-diff")
    changed = (await git.run(*comparing, timeout_s=timeout_s)).names
    if not new and not changed:
        return
    tree = git.work_tree
    assert tree is not None, "there are files"
    root = os.fsencode(tree)

    def choose() -> list[bytes]:
        known = sorted(set(changed))
        return [path for path in known if _is_taken(root, path, left, max_bytes, new=False)] + [
            path for path in _bounded(new, left) if _is_taken(root, path, left, max_bytes, new=True)
        ]

    paths = await threads.run(choose, timeout_s=timeout_s)
    await _put(git, paths, left, timeout_s)


async def _put(git: Git, paths: list[bytes], left: LeftFiles, timeout_s: float) -> None:
    """Put files into the index; what git refuses is found by halves, and left out."""
    pending, refused = [paths], 0
    while pending:
        part = pending.pop()
        if not part:
            continue
        try:
            await _update(git, part, timeout_s)
        except GitError as error:
            if error.code is None or refused >= _MAX_REFUSED:
                raise
            if len(part) == 1:
                refused += 1
                left.add(os.fsdecode(part[0]), "git does not take it")
            else:
                half = len(part) // 2
                pending += [part[half:], part[:half]]


async def _update(git: Git, paths: list[bytes], timeout_s: float) -> None:
    words = ("update-index", "-z", "--add", "--remove", "--replace", "--stdin")
    await git.run(*words, timeout_s=timeout_s, stdin=b"".join(path + b"\0" for path in paths))


def _bounded(paths: list[bytes], left: LeftFiles) -> Iterator[bytes]:
    if len(paths) > MAX_FILES:
        left.add(os.fsdecode(paths[MAX_FILES]), f"more than {MAX_FILES} new files", count=len(paths) - MAX_FILES)
    yield from paths[:MAX_FILES]


def _is_taken(root: bytes, path: bytes, left: LeftFiles, max_bytes: int, *, new: bool) -> bool:
    """Whether a file is put into the index; of a known one that is not there any more that means that it is removed."""
    whole, name = os.path.join(root, path), os.fsdecode(path)  # noqa: PTH118  # bytes
    why = _fault_of_name(name, new=new)
    try:
        about = os.lstat(whole)
    except OSError:
        return not new and why is None
    if why is None and stat.S_ISREG(about.st_mode):
        why = _fault_of_file(whole, about.st_size, max_bytes)
    if why is not None:
        left.add(name, why)
        return False
    return stat.S_ISREG(about.st_mode) or stat.S_ISLNK(about.st_mode) or not new


def _fault_of_name(name: str, *, new: bool) -> str | None:
    if name.endswith("/"):
        return "a repository within this one: what is in it was not committed there"
    if new and looks_like_a_secret(name):
        return "its name is one of a file with secrets"
    if any(_leads_into_repository(part) for part in name.split("/")):
        return "its name leads into a repository on some systems"
    return None


def _fault_of_file(whole: bytes, size: int, max_bytes: int) -> str | None:
    if size > max_bytes:
        return f"it has {size} bytes, and max_changes_bytes is {max_bytes}"
    return None if os.access(whole, os.R_OK) else "it cannot be read"


def _leads_into_repository(part: str) -> bool:
    folded = part.casefold().rstrip(" .")
    return folded == ".git" or folded.startswith(("git~", ".git:"))
