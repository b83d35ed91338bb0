"""Finds the branches of a run beside the one that it left checked out, so that their commits come home as well.

A branch counts if it goes on from the base of the task and has commits that neither the one that is checked out nor
the source has.
"""

from collections.abc import Iterable
from typing import Final

from agentbus.git.running import Git
from agentbus.protocol.work.results import MAX_BRANCHES, OtherBranch
from agentbus.protocol.work.task_work import ref_fault
from agentbus.visible_text import one_line
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.repositories.changed_files import LeftFiles
from agentbus_worker.repositories.clone import Clone
from agentbus_worker.repositories.head_of_agent import refs_of

_MAX_LOOKED_AT: Final = 50
"""How many branches are looked at; each costs some commands."""


async def other_branches(
    git: Git, clone: Clone, head: str, left: LeftFiles, *, timeout_s: float, threads: DiskThreads
) -> tuple[OtherBranch, ...]:
    """Return the further branches whose commits come home.

    Args:
        git: of the worker.
        head: the commit that is checked out.
        left: gets those that do not come home, though they have commits of their own.

    Raises:
        GitError: git did not end in time.
    """
    repository, base = clone.tree / ".git", clone.record.base
    heads = await threads.run(lambda: refs_of(repository, "heads"))
    wanted = {name: commit for name, commit in sorted(heads.items()) if commit not in (base, head)}
    if not wanted:
        return ()
    remotes = await threads.run(lambda: refs_of(repository, "remotes"))
    known = "".join(f"^{commit}\n" for commit in dict.fromkeys((base, head, *remotes.values())))
    there = await _commits(git, wanted.values(), timeout_s)
    found: list[OtherBranch] = []
    for number, (name, commit) in enumerate(wanted.items()):
        if number >= _MAX_LOOKED_AT:
            left.add(f"branch {name}", f"more than {_MAX_LOOKED_AT} branches", count=len(wanted) - number)
            break
        count = await _new_commits(git, commit, known, timeout_s) if commit in there else None
        if count is None:
            left.add(f"branch {name}", "its commits cannot be read")
        elif count > 0:
            if (why := await _fault(git, name, commit, base, len(found), timeout_s)) is not None:
                left.add(f"branch {name}", why)
                continue
            commits = (await git.run("rev-list", "--count", f"{base}..{commit}", timeout_s=timeout_s)).text
            # In the bundle the branch of the task is what is checked out, whichever that is.
            found.append(OtherBranch(f"{name}-2" if name == clone.record.branch else name, commit, int(commits)))
    return tuple(found)


async def _commits(git: Git, ids: Iterable[str], timeout_s: float) -> set[str]:
    """Return those of some objects that are there, and are commits."""
    asked = "".join(f"{one}\n" for one in ids).encode()
    answers = await git.run("cat-file", "--batch-check", timeout_s=timeout_s, stdin=asked)
    return {
        words[0] for line in answers.text.splitlines() if len(words := line.split(" ")) > 1 and words[1] == "commit"
    }


async def _new_commits(git: Git, commit: str, known: str, timeout_s: float) -> int | None:
    """Return how many commits there are that are not known; None if not all of their objects are there."""
    given = f"{commit}\n{known}".encode()
    words = ("rev-list", "--ignore-missing", "--stdin")
    whole = await git.run(*words, "--objects", "--quiet", stdin=given, timeout_s=timeout_s, check=False)
    if whole.code != 0:
        return None
    return int((await git.run(*words, "--count", stdin=given, timeout_s=timeout_s)).text)


async def _fault(git: Git, name: str, commit: str, base: str, count: int, timeout_s: float) -> str | None:
    if ref_fault(name) is not None or one_line(name) != name:
        return "it has a name that no task may have"
    if count >= MAX_BRANCHES:
        return f"a task brings home at most {MAX_BRANCHES} further branches"
    since = await git.run("merge-base", "--is-ancestor", base, commit, timeout_s=timeout_s, check=False)
    return None if since.code == 0 else "it does not go on from the base of the task"


async def note_branches(git: Git, branches: dict[str, str], timeout_s: float) -> None:
    """Have exactly these branches in the repository of the worker, of which a bundle is made.

    Raises:
        GitError: two of the names exclude each other.
    """
    known = (await git.run("for-each-ref", "--format=%(refname)", "refs/heads", timeout_s=timeout_s)).text.split()
    for names in (
        [f"delete {name}\n" for name in known],
        [f"create refs/heads/{n} {c}\n" for n, c in branches.items()],
    ):
        if names:
            stdin = "".join(names).encode()
            await git.run("update-ref", "--no-deref", "--stdin", stdin=stdin, timeout_s=timeout_s)
