"""Finds out what a run has changed in its clone, and writes it as a bundle and as a patch.

All of it is done in the repository of the worker (`own.git`): what the agent has made of its own is data, of which the
objects and the names of commits are read, and no setting. Where even these cannot be used, as the
agent has removed `.git` for example, the files alone count.
"""

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agentbus.errors import GitTooLargeError
from agentbus.git.running import Git
from agentbus.protocol.work.results import BUNDLE, MAX_SECRETS, MAX_TITLES, PATCH, Changes, Commit, LeftOut
from agentbus.visible_text import one_line
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.repositories.changed_files import LeftFiles, stage
from agentbus_worker.repositories.clone import Clone
from agentbus_worker.repositories.head_of_agent import excludes_of, head_of
from agentbus_worker.repositories.other_branches import note_branches, other_branches
from agentbus_worker.repositories.secret_names import looks_like_a_secret

_MAX_PATCH_BYTES: Final = 33_554_432
"""A patch is for reading; the bundle has everything. Git holds the files of a patch in memory."""
_MESSAGE: Final = """Uncommitted changes of the task {task}

The run has left them without a commit. The worker has made this one of them.

Agentbus-Uncommitted: true
"""


@dataclass(frozen=True, slots=True)
class BroughtChanges:
    """What changed, and the files that were written of it.

    Attributes:
        files: by the names of the artifacts.
        left_out: artifacts that could not be written.
    """

    changes: Changes
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])


async def changes_of(
    clone: Clone, into: Path, *, max_bytes: int, timeout_s: float, threads: DiskThreads
) -> BroughtChanges:
    """Find out what the run in a clone has changed; no process of it is left.

    Args:
        into: the folder that gets the bundle and the patch.
        max_bytes: of the bundle, and of each file that the agent has not committed.
        timeout_s: of each step.

    Raises:
        GitError: git failed, or did not end in time.
        OSError: the disk refuses it.
    """
    git, left = clone.git, LeftFiles()
    said = await threads.run(lambda: head_of(clone.tree / ".git"))
    excludes = await threads.run(lambda: excludes_of(clone.tree / ".git"))
    await threads.run(lambda: (clone.own / "info" / "exclude").write_bytes(excludes))
    head = clone.record.base
    if said is None or not await _is_whole(git, said, clone.record.base, timeout_s):
        left.add(".git", "the commits in it cannot be read: the files are what came home")
    else:
        head = said
    await git.run("read-tree", "--reset", head, timeout_s=timeout_s)
    await stage(git, left, max_bytes=max_bytes, timeout_s=timeout_s, threads=threads)
    tree = (await git.run("write-tree", timeout_s=timeout_s)).text
    uncommitted = tree != (await git.run("rev-parse", f"{head}^{{tree}}", timeout_s=timeout_s)).text
    if uncommitted:
        message = _MESSAGE.format(task=clone.record.task).encode()
        head = (await git.run("commit-tree", tree, "-p", head, timeout_s=timeout_s, stdin=message)).text
    base = clone.record.base
    branches = await other_branches(git, clone, head, left, timeout_s=timeout_s, threads=threads)
    changes = await _summary(git, clone, head, uncommitted=uncommitted, left=left, timeout_s=timeout_s)
    secrets = await _secrets(git, base, (head, *(one.head for one in branches)), timeout_s)
    found = BroughtChanges(replace(changes, branches=branches, secrets=secrets))
    if head != base or branches:
        await _write(git, found, into, max_bytes=max_bytes, timeout_s=timeout_s)
    return found


async def _is_whole(git: Git, commit: str, base: str, timeout_s: float) -> bool:
    """Whether a commit is there, with all that it has beyond the base."""
    if commit == base:
        return True
    kind = await git.run("cat-file", "-t", commit, timeout_s=timeout_s, check=False)
    if kind.text != "commit":
        return False
    words = ("rev-list", "--objects", "--quiet", commit, f"^{base}")
    return (await git.run(*words, timeout_s=timeout_s, check=False)).code == 0


async def _summary(
    git: Git, clone: Clone, head: str, *, uncommitted: bool, left: LeftFiles, timeout_s: float
) -> Changes:
    record = clone.record
    known = Changes(
        record.base,
        record.branch,
        head,
        base_ref=record.base_ref,
        uncommitted=uncommitted,
        left_out=tuple(left.listed),
        left_out_count=left.count,
    )
    if head == record.base:
        return known
    between = f"{record.base}..{head}"
    count = (await git.run("rev-list", "--count", between, timeout_s=timeout_s)).text
    listing = ("log", "-z", f"--max-count={MAX_TITLES}", "--format=%H %s", "--no-show-signature", between)
    titles = [os.fsdecode(one).partition(" ") for one in (await git.run(*listing, timeout_s=timeout_s)).names]
    counting = ("diff-tree", "-r", "-z", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv")
    files = insertions = deletions = 0
    for one in (await git.run(*counting, record.base, head, timeout_s=timeout_s)).names:
        added, removed, _ = one.split(b"\t", 2)
        files += 1
        insertions += int(added) if added.isdigit() else 0
        deletions += int(removed) if removed.isdigit() else 0
    log = tuple(Commit(commit, one_line(title)) for commit, _, title in titles)
    return replace(known, commits=int(count), files=files, insertions=insertions, deletions=deletions, log=log)


async def _secrets(git: Git, base: str, heads: Iterable[str], timeout_s: float) -> tuple[str, ...]:
    """Return files in the commits of the agent whose names are those of files with secrets.

    They come home: they are a part of commits. What the worker commits has none, but for files that it finds there.
    """
    listing = ("log", "-z", "--format=", "--name-only", "--no-renames", "--diff-filter=AM")
    names = (await git.run(*listing, *heads, f"^{base}", "--", timeout_s=timeout_s)).names
    found = (one_line(os.fsdecode(name)) for name in dict.fromkeys(names) if looks_like_a_secret(os.fsdecode(name)))
    return tuple(itertools.islice(found, MAX_SECRETS))


async def _write(git: Git, found: BroughtChanges, into: Path, *, max_bytes: int, timeout_s: float) -> None:
    changes = found.changes
    try:
        found.files[BUNDLE] = await _bundle(git, changes, into / BUNDLE, max_bytes=max_bytes, timeout_s=timeout_s)
    except GitTooLargeError:
        found.left_out.append(LeftOut(BUNDLE, f"it has more than {max_bytes} bytes (max_changes_bytes)"))
        found.left_out.append(LeftOut(PATCH, "the changes are too large"))
        return
    if changes.head == changes.base:
        return
    if (size := await _size_of_files(git, changes, timeout_s)) > _MAX_PATCH_BYTES:
        found.left_out.append(LeftOut(PATCH, f"the changed files have {size} bytes; the bundle has them"))
        return
    patch = into / PATCH
    showing = ("diff", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv")
    try:
        await git.run(*showing, changes.base, changes.head, timeout_s=timeout_s, max_bytes=_MAX_PATCH_BYTES, into=patch)
        found.files[PATCH] = patch
    except GitTooLargeError:
        found.left_out.append(LeftOut(PATCH, f"it has more than {_MAX_PATCH_BYTES} bytes; the bundle has everything"))


async def _bundle(git: Git, changes: Changes, bundle: Path, *, max_bytes: int, timeout_s: float) -> Path:
    """Write the bundle with all branches.

    Raises:
        GitTooLargeError: it has more than `max_bytes`.
    """
    branches = {one.branch: one.head for one in changes.branches}
    if changes.head != changes.base:
        branches[changes.branch] = changes.head
    await note_branches(git, branches, timeout_s)
    words = ("bundle", "create", "--quiet", "--version=2", "-", *(f"refs/heads/{name}" for name in branches))
    await git.run(*words, f"^{changes.base}", timeout_s=timeout_s, max_bytes=max_bytes, into=bundle)
    return bundle


async def _size_of_files(git: Git, changes: Changes, timeout_s: float) -> int:
    """Return the size of all versions of the files that differ: so much of them git would hold in memory."""
    comparing = ("diff-tree", "-r", "-z", "--raw", "--no-abbrev", "--no-renames", changes.base, changes.head)
    fields = (await git.run(*comparing, timeout_s=timeout_s)).names
    ids = [words[at] for one in fields if one.startswith(b":") and len(words := one.split(b" ")) == 5 for at in (2, 3)]
    asked = b"".join(one + b"\n" for one in ids if one.strip(b"0"))
    if not asked:
        return 0
    sizes = await git.run("cat-file", "--batch-check=%(objectsize)", timeout_s=timeout_s, stdin=asked)
    return sum(int(size) for size in sizes.text.splitlines() if size.isdigit())
