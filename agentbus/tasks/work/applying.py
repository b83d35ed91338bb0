"""Takes what a task changed into a repository: as a branch, out of a bundle that an agent's machine has made.

The bundle is untrusted. It is unpacked in a quarantine, repositories without files that are thrown away, where git
checks each object. From there the one commit that the result names is fetched into the person's repository. Nothing is
checked out, and no hook runs.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import GitError, WorkError
from agentbus.git.running import Git
from agentbus.protocol.work.results import BUNDLE, Changes
from agentbus.tasks.status import TaskStatus
from agentbus.tasks.work.artifacts import artifact_named, changes_of, save_artifact
from agentbus.tasks.work.own_repository import OwnRepository

_UNPACK_S: Final = 600.0
"""How long it may take to unpack a bundle: what an agent has made must not hold a command for ever."""
_INCOMING: Final = "refs/heads/incoming"
_ACTING: Final = (".gitattributes", ".gitmodules", ".lfsconfig")
"""Files that say to git what it does with others: which filter it runs, which server it asks."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The work of a task that is a branch of a repository.

    Attributes:
        known: whether the branch was there before.
        acting: files among the changed ones that say to git what it does with others.
    """

    branch: str
    changes: Changes
    known: bool
    acting: tuple[str, ...] = ()


def changes_to_apply(status: TaskStatus, take: str | None = None) -> Changes:
    """Return the changes of a task that can be applied.

    Args:
        take: another branch that the run has left than the one that it left checked out; then how many files and lines
            changed is not known.

    Raises:
        NotSettledError: the task has no result yet.
        WorkError: it has changed nothing, or no repository, or has left no such branch.
    """
    changes = changes_of(status)
    if changes is None:
        raise WorkError(f"the task {status.name} has no changes of a repository; agentbus work show names what it left")
    others = ", ".join(one.branch for one in changes.branches)
    if take is not None:
        for one in changes.branches:
            if one.branch == take:
                return replace(
                    changes, branch=take, head=one.head, commits=one.commits, files=0, insertions=0, deletions=0,
                    log=(), uncommitted=False, left_out=(), left_out_count=0, branches=(),
                )  # fmt: skip
        raise WorkError(f"the task {status.name} has left no further branch {take!r}; it has left: {others or 'none'}")
    if changes.base == changes.head:
        further = f"; it has left other branches: {others} (agentbus work apply --take BRANCH)" if others else ""
        raise WorkError(f"the task {status.name} has changed nothing in its repository{further}")
    return changes


async def apply(bus: Bus, status: TaskStatus, own: OwnRepository, branch: str, take: str | None = None) -> Applied:
    """Make what a task changed a branch of a repository. Nothing is checked out; doing it again is harmless.

    Args:
        take: see `changes_to_apply`.

    Raises:
        NotSettledError: the task has no result yet.
        WorkError: there is nothing to apply, the repository lacks the base, the branch is another one, or the bundle is
            not what the result says; says what to do. Nothing was changed.
        FileMissingError, CorruptFileError: see `agentbus.tasks.work.artifacts.read_artifact`.
    """
    changes = changes_to_apply(status, take)
    present = await own.branch(branch)
    if present is not None:
        if present != changes.head and not await own.is_ancestor(changes.head, present):
            raise WorkError(
                f"the branch {branch} is another one: git branch -m {branch} NEW moves it away, or give the new "
                "branch another name"
            )
        return await _applied(own, branch, changes, known=True)
    if not await own.has_commit(changes.base):
        raise WorkError(await _lacking(own, status, changes))
    await _take(bus, status, own, branch, changes)
    return await _applied(own, branch, changes, known=False)


def check_harmless(applied: Applied) -> None:
    """Refuse to check out files that say to git what it does with others, before a person has looked at them.

    Raises:
        WorkError: there are some; says what to do.
    """
    if applied.acting:
        names = ", ".join(applied.acting[:5])
        raise WorkError(
            f"it changes {names}, which can have git run programs or ask servers when the files are checked out. The "
            f"branch {applied.branch} is made; look at them, then merge it with git: git diff "
            f"{applied.changes.base[:12]} {applied.branch} -- {applied.acting[0]}"
        )


async def _applied(own: OwnRepository, branch: str, changes: Changes, *, known: bool) -> Applied:
    files = await own.changed_files(changes.base, changes.head)
    return Applied(branch, changes, known, tuple(one for one in files if one.rpartition("/")[2].lower() in _ACTING))


async def _lacking(own: OwnRepository, status: TaskStatus, changes: Changes) -> str:
    """Say which commit is missing, and what brings it."""
    what = f"this repository lacks the commit {changes.base[:12]} from which the task {status.name} started"
    if status.continues is not None:
        return f"{what}; it goes on with the task {status.continues}: agentbus work apply {status.continues} first"
    remotes = await own.remotes()
    remote, _, name = (changes.base_ref or "").partition("/")
    if remote in remotes and name:
        return f"{what} ({changes.base_ref} there): git fetch {remote} {name}, then run this again"
    fetch = f"git fetch {remotes[0]}" if len(remotes) == 1 else "git fetch --all"
    there = f" ({changes.base_ref} there)" if changes.base_ref else ""
    return f"{what}{there}: {fetch}, then run this again; if it is still missing, this is no clone of that repository"


async def _take(bus: Bus, status: TaskStatus, own: OwnRepository, branch: str, changes: Changes) -> None:
    with tempfile.TemporaryDirectory(prefix="agentbus-work-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        bundle, unpacked, checked = folder / "bundle", folder / "unpacked.git", folder / "checked.git"
        await save_artifact(bus, status, artifact_named(status, BUNDLE), bundle)
        try:
            await _unpack(bundle, unpacked, own, changes)
            # Versions of git before 2.46 check no object of a bundle; and what a check refuses leaves a part of a pack.
            await _fetched(unpacked, _INCOMING, checked, own)
            await own.take_branch(checked, _INCOMING, branch)
        except GitError as error:
            why = f"the bundle of the task {status.name} cannot be taken, and nothing was changed"
            raise WorkError(f"{why}: {error}") from None


async def _unpack(bundle: Path, bare: Path, own: OwnRepository, changes: Changes) -> None:
    """Unpack a bundle, and check that it holds the commit that the result names."""
    git = await _fetched(bundle, f"refs/heads/{changes.branch}", bare, own)
    found = await git.run("rev-parse", "--verify", f"{_INCOMING}^{{commit}}", timeout_s=_UNPACK_S)
    if found.text != changes.head:
        raise GitError(f"it holds the commit {found.text}, and its result names {changes.head}")
    since = await git.run("merge-base", "--is-ancestor", changes.base, changes.head, timeout_s=_UNPACK_S, check=False)
    if since.code != 0:
        raise GitError(f"its commits do not go on from {changes.base[:12]}, which its result names as their base")


async def _fetched(source: Path, ref: str, bare: Path, own: OwnRepository) -> Git:
    """Fetch a commit into a new repository without files, which borrows what the person's repository has."""
    git = await own.borrowing(bare)
    words = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(source), f"{ref}:{_INCOMING}")
    await git.run(*words, timeout_s=_UNPACK_S)
    return git
