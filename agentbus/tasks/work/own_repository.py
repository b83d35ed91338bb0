"""The repository into which a person takes the work of a task: what it has, its state, and what is done there.

Its configuration is that of the person, and counts, but for hooks: what a task has made starts no program.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentbus.errors import GitError, WorkError
from agentbus.git.object_format import OTHER_FORMAT, SHA1
from agentbus.git.running import Git
from agentbus.protocol.work.task_work import ref_fault

_LOOK_S: Final = 60.0
"""Of a command that looks something up, also on a slow disk and in a large repository."""
_CHANGE_S: Final = 600.0
"""Of a command that writes files: a large checkout takes minutes."""
_LISTED: Final = 5
"""How many files or commits an error names: enough to see what they are."""


@dataclass(frozen=True, slots=True)
class OwnRepository:
    """A repository of the person who runs this, in whose folder the command was started."""

    git: Git
    objects: Path

    # -- what it has -------------------------------------------------------------------------------------------------

    async def has_commit(self, commit: str) -> bool:
        """Whether it has a commit."""
        return (await self.git.run("cat-file", "-e", f"{commit}^{{commit}}", timeout_s=_LOOK_S, check=False)).code == 0

    async def branch(self, name: str) -> str | None:
        """Return the commit of a branch; None if there is no such branch."""
        found = await self.git.run(
            "rev-parse", "--verify", "-q", f"refs/heads/{name}^{{commit}}", timeout_s=_LOOK_S, check=False
        )
        return found.text if found.code == 0 else None

    async def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether a commit is in the history of another one, or the same."""
        found = await self.git.run("merge-base", "--is-ancestor", older, newer, timeout_s=_LOOK_S, check=False)
        return found.code == 0

    async def remotes(self) -> list[str]:
        """Return the names of its remote repositories."""
        return (await self.git.run("remote", timeout_s=_LOOK_S)).text.splitlines()

    async def changed_files(self, base: str, head: str) -> list[str]:
        """Return the files in which two commits differ."""
        words = ("diff", "--name-only", "--no-renames", "-z", base, head, "--")
        found = await self.git.run(*words, timeout_s=_LOOK_S)
        return [name.decode(errors="backslashreplace") for name in found.names]

    async def commits(self, *words: str) -> list[str]:
        """Return commits as `git rev-list` lists them."""
        return (await self.git.run("rev-list", *words, "--", timeout_s=_LOOK_S)).text.split()

    async def borrowing(self, bare: Path) -> Git:
        """Make a repository without files that has all objects of this one, and nothing else of it."""
        words = ("init", "--quiet", "--bare", "--template=", f"--object-format={SHA1}", str(bare))
        await Git().run(*words, timeout_s=_LOOK_S)
        (bare / "objects" / "info").mkdir(parents=True, exist_ok=True)
        (bare / "objects" / "info" / "alternates").write_text(f"{self.objects.as_posix()}\n", encoding="utf-8")
        return Git(git_dir=bare)

    # -- what is done there ------------------------------------------------------------------------------------------

    async def take_branch(self, source: Path, ref: str, name: str) -> None:
        """Fetch a commit of another repository as a new branch; each object is checked before any is kept.

        Raises:
            GitError: an object is not as it must be, or the branch was made meanwhile; nothing is changed then.
        """
        await self.git.run(
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            str(source),
            f"{ref}:refs/heads/{name}",
            timeout_s=_CHANGE_S,
        )

    async def check_ready(self) -> str:
        """Return the branch that is checked out, where something can be merged into it.

        Raises:
            WorkError: there is none, or files are changed, or something is under way; says what to do.
        """
        bare = await self.git.run("rev-parse", "--is-inside-work-tree", timeout_s=_LOOK_S, check=False)
        if bare.text != "true":
            raise WorkError("this repository has no files; go into a folder where a branch of it is checked out")
        head = await self.git.run("symbolic-ref", "-q", "--short", "HEAD", timeout_s=_LOOK_S, check=False)
        if head.code != 0:
            raise WorkError("no branch is checked out (HEAD is detached): git switch BRANCH, then run this again")
        words = ("status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=all")
        changed = (await self.git.run(*words, timeout_s=_LOOK_S)).names
        if changed:
            names = ", ".join(one.decode(errors="backslashreplace")[3:] for one in changed[:_LISTED])
            more = f" and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
            raise WorkError(f"files are changed here: {names}{more}; commit them, or git stash, then run this again")
        for name, what in (("MERGE_HEAD", "merge"), ("CHERRY_PICK_HEAD", "cherry-pick"), ("REBASE_HEAD", "rebase")):
            if (await self.git.run("rev-parse", "-q", "--verify", name, timeout_s=_LOOK_S, check=False)).code == 0:
                raise WorkError(f"a {what} is under way here: git {what} --continue or --abort, then run this again")
        if (await self.git.run("rev-parse", "-q", "--verify", "HEAD", timeout_s=_LOOK_S, check=False)).code != 0:
            raise WorkError(f"the branch {head.text} has no commit yet: make one, then run this again")
        return head.text

    async def merge(self, branch: str) -> bool:
        """Merge a branch into the one that is checked out; return whether there was anything to merge.

        Raises:
            WorkError: it cannot be merged; all is as it was.
        """
        if await self.is_ancestor(f"refs/heads/{branch}", "HEAD"):
            return False
        await self._done_or_undone(
            "merge", "--no-edit", "--quiet", f"refs/heads/{branch}", by_hand=f"git merge {branch}"
        )
        return True

    async def cherry_pick(self, base: str, branch: str) -> int:
        """Make the commits of a branch since `base` anew on the branch that is checked out; return how many.

        Those whose change is there already are left out.

        Raises:
            WorkError: it cannot be done; all is as it was.
        """
        ref = f"refs/heads/{branch}"
        if await self.commits("--merges", f"{base}..{ref}"):
            raise WorkError(f"{branch} holds merges, which cannot be picked one by one: take --merge")
        found = await self.git.run("cherry", "HEAD", ref, base, timeout_s=_LOOK_S)
        wanted = [line[2:] for line in found.text.splitlines() if line.startswith("+ ")]
        if wanted:
            by_hand = f"git cherry-pick {base[:12]}..{branch}"
            await self._done_or_undone("cherry-pick", "--allow-empty", *wanted, by_hand=by_hand)
        return len(wanted)

    async def _done_or_undone(self, verb: str, *words: str, by_hand: str) -> None:
        try:
            await self.git.run(verb, *words, timeout_s=_CHANGE_S)
        except GitError as error:
            unmerged = await self.git.run(
                "diff", "--name-only", "--diff-filter=U", "-z", timeout_s=_LOOK_S, check=False
            )
            await self.git.run(verb, "--abort", timeout_s=_CHANGE_S, check=False)
            if not unmerged.names:
                raise WorkError(f"{error}; nothing was changed") from None
            names = ", ".join(one.decode(errors="backslashreplace") for one in unmerged.names[:_LISTED])
            raise WorkError(
                f"both sides change the same lines of {names}; nothing was changed. {by_hand} lets you decide for each"
            ) from None


async def own_repository(folder: Path) -> OwnRepository:
    """Return the repository that a folder lies in.

    Raises:
        WorkError: it lies in none, or in one with object ids of another kind than agents work with.
        GitMissingError: there is no git on this machine.
    """
    git = Git(folder=folder, of_user=True)
    found = await git.run("rev-parse", "--git-path", "objects", timeout_s=_LOOK_S, check=False)
    if found.code != 0:
        said = " ".join(found.stderr.split()[:40])
        raise WorkError(f"{folder} lies in no repository that git takes ({said}); go into a clone of the repository")
    objects = (folder / found.text).resolve()
    kind = (await git.run("rev-parse", "--show-object-format", timeout_s=_LOOK_S)).text
    if kind != SHA1:
        raise WorkError(f"the repository in {folder} {OTHER_FORMAT}")
    return OwnRepository(git, objects)


def branch_for(task_id: str, name: str | None = None, *, take: str | None = None) -> str:
    """Return the branch that gets the work of a task: `agentbus/<id>`, or the one that a person names.

    Args:
        take: another branch of the run, which makes it `agentbus/<id>-<branch>`.

    Raises:
        WorkError: git takes no branch of this name.
    """
    branch = (f"agentbus/{task_id}" + (f"-{take}" if take else "")) if name is None else name
    if (fault := ref_fault(branch)) is not None:
        raise WorkError(f"{branch!r} cannot be the name of a branch: {fault}; give another one")
    return branch
