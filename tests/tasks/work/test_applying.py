"""Taking the changes of a task into a repository: exactly that tree, as a branch, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus import Coordinator, TaskStatus
from agentbus.errors import WorkError
from agentbus.protocol.work.results import BUNDLE, Changes
from agentbus.tasks.work.applying import Applied, apply, check_harmless
from agentbus.tasks.work.own_repository import branch_for, own_repository
from support.left_work import BRANCH, clone, commit, content_of, git, repository, settle_with, work_of, write

pytestmark = pytest.mark.posix("git with modes and links")


def edited(run: Path) -> None:
    """Edit a repository as an agent does: text, a binary file, a mode, a link, a file that goes."""
    write(run, {"a.txt": b"one\n2\n", "sub/ü n.bin": bytes(range(255, -1, -1)), "tool.sh": b"#!/bin/sh\n"})
    (run / "tool.sh").chmod(0o755)
    (run / "link").symlink_to("/etc/passwd")
    (run / "bin").unlink()
    commit(run, "An edit")
    write(run, {"crlf.txt": b"a\r\nb\r\n"})
    commit(run, "What was left")


async def with_work(coordinator: Coordinator, tmp_path: Path) -> tuple[Path, Path, TaskStatus]:
    """Return a repository that a run has edited, a person's clone of its base, and the settled task."""
    run = repository(tmp_path / "run")
    base = git(run, "rev-parse", "HEAD")
    mine = clone(run, tmp_path / "mine")
    edited(run)
    changes, files = work_of(run, base, base_ref="origin/main")
    return run, mine, await settle_with(coordinator, files, changes)


async def take(coordinator: Coordinator, status: TaskStatus, folder: Path, branch: str = BRANCH) -> Applied:
    return await apply(coordinator.bus, status, await own_repository(folder), branch)


async def test_the_branch_has_exactly_that_tree_and_nothing_is_checked_out(
    coordinator: Coordinator, tmp_path: Path, home: Path
) -> None:
    run, mine, status = await with_work(coordinator, tmp_path)
    before, around = content_of(mine), content_of(home)
    refs = git(mine, "for-each-ref")
    applied = await take(coordinator, status, mine / ".")
    assert (applied.known, applied.acting, applied.changes.commits) == (False, (), 2)
    assert (content_of(mine), git(mine, "status", "--porcelain"), git(mine, "symbolic-ref", "HEAD")) == (
        before,
        "",
        "refs/heads/main",
    )
    head = git(run, "rev-parse", "HEAD")
    assert git(mine, "for-each-ref") == f"{head} commit\trefs/heads/{BRANCH}\n{refs}"
    assert (await take(coordinator, status, mine)).known
    own = await own_repository(mine)
    assert await own.merge(BRANCH)
    assert not await own.merge(BRANCH)
    assert content_of(mine) == content_of(run)
    assert git(mine, "status", "--porcelain") == ""
    assert git(mine, "fsck", "--strict") == ""
    assert content_of(home) == around


async def test_commits_are_picked_once_and_what_the_person_has_stays(coordinator: Coordinator, tmp_path: Path) -> None:
    _, mine, status = await with_work(coordinator, tmp_path)
    write(mine, {"mine.txt": b"mine"})
    commit(mine, "Mine")
    git(mine, "config", "user.name", "Me")
    git(mine, "config", "user.email", "me@example.com")
    applied = await take(coordinator, status, mine)
    own = await own_repository(mine)
    assert await own.check_ready() == "main"
    assert await own.cherry_pick(applied.changes.base, BRANCH) == 2
    assert await own.cherry_pick(applied.changes.base, BRANCH) == 0
    assert git(mine, "log", "--format=%s").splitlines() == ["What was left", "An edit", "Mine", "the first"]
    assert (mine / "mine.txt").exists()


async def test_a_conflict_changes_nothing_and_names_the_files(coordinator: Coordinator, tmp_path: Path) -> None:
    _, mine, status = await with_work(coordinator, tmp_path)
    git(mine, "config", "user.name", "Me")
    git(mine, "config", "user.email", "me@example.com")
    write(mine, {"a.txt": b"one\nzwei\n"})
    head = commit(mine, "Another")
    applied = await take(coordinator, status, mine)
    own = await own_repository(mine)
    with pytest.raises(WorkError, match=f"the same lines of a.txt; nothing was changed. git merge {BRANCH} lets you"):
        await own.merge(BRANCH)
    with pytest.raises(WorkError, match=r"the same lines of a.txt; nothing was changed. git cherry-pick \w+\.\."):
        await own.cherry_pick(applied.changes.base, BRANCH)
    assert (git(mine, "rev-parse", "HEAD"), git(mine, "status", "--porcelain")) == (head, "")


async def test_a_repository_in_which_nothing_can_be_merged_is_told_with_what_to_do(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    _, mine, _ = await with_work(coordinator, tmp_path)
    own = await own_repository(mine)
    write(mine, {"a.txt": b"changed"})
    with pytest.raises(WorkError, match=r"files are changed here: a.txt; commit them, or git stash"):
        await own.check_ready()
    git(mine, "checkout", "-q", "-f", "--detach")
    with pytest.raises(WorkError, match=r"HEAD is detached\): git switch BRANCH"):
        await own.check_ready()
    git(mine, "switch", "-q", "--orphan", "new")
    with pytest.raises(WorkError, match="the branch new has no commit yet"):
        await own.check_ready()
    git(mine, "switch", "-q", "main")
    git(mine, "update-ref", "MERGE_HEAD", "HEAD")
    with pytest.raises(WorkError, match="a merge is under way here"):
        await own.check_ready()
    with pytest.raises(WorkError, match="this repository has no files"):
        await (await own_repository(mine / ".git")).check_ready()
    with pytest.raises(WorkError, match="lies in no repository that git takes"):
        await own_repository(tmp_path)
    with pytest.raises(WorkError, match="cannot be the name of a branch"):
        branch_for("job-1.lock")


async def test_a_branch_that_exists_is_kept_and_another_name_can_be_given(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    _, mine, status = await with_work(coordinator, tmp_path)
    git(mine, "branch", BRANCH)
    with pytest.raises(WorkError, match="is another one: git branch -m agentbus/job-1 NEW moves it away"):
        await take(coordinator, status, mine)
    assert not (await take(coordinator, status, mine, "other")).known
    git(mine, "switch", "-q", "other")
    commit(mine, "On top")
    assert (await take(coordinator, status, mine, "other")).known


async def test_a_lacking_base_is_named_with_the_fetch_that_brings_it(coordinator: Coordinator, tmp_path: Path) -> None:
    origin = repository(tmp_path / "origin")
    mine = clone(origin, tmp_path / "mine")
    write(origin, {"a.txt": b"newer"})
    base = commit(origin, "Newer")
    run = clone(origin, tmp_path / "run")
    edited(run)
    changes, files = work_of(run, base, base_ref="origin/main")
    status = await settle_with(coordinator, files, changes)
    with pytest.raises(
        WorkError, match=rf"lacks the commit {base[:12]} .*\(origin/main there\): git fetch origin main,"
    ):
        await take(coordinator, status, mine)
    git(mine, "fetch", "-q", "origin", "main")
    assert not (await take(coordinator, status, mine)).known
    changes, files = work_of(run, base, base_ref="v1")
    status = await settle_with(coordinator, files, changes, task_id="job-2")
    other = repository(tmp_path / "other")
    with pytest.raises(WorkError, match=r"\(v1 there\): git fetch --all, .* this is no clone of that repository"):
        await take(coordinator, status, other)


async def test_a_repository_with_object_ids_of_another_kind_is_refused_with_that(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    _, _, status = await with_work(coordinator, tmp_path)
    git(tmp_path, "init", "-q", "--object-format=sha256", "other")
    commit(tmp_path / "other", "x")
    said = r"the repository in .*other has object ids of SHA-256"
    with pytest.raises(WorkError, match=said):
        await take(coordinator, status, tmp_path / "other")
    with pytest.raises(WorkError, match=said):
        await coordinator.publish("code", "x", commits_of=tmp_path / "other")


async def test_a_task_that_changed_nothing_has_nothing_to_apply(coordinator: Coordinator, tmp_path: Path) -> None:
    _, mine, status = await with_work(coordinator, tmp_path)
    assert status.record.entry.result is not None
    without = await settle_with(coordinator, {}, task_id="job-2")
    with pytest.raises(WorkError, match="code/job-2 has no changes of a repository"):
        await take(coordinator, without, mine)
    head = git(mine, "rev-parse", "HEAD")
    nothing = await settle_with(coordinator, {}, Changes(head, BRANCH, head), task_id="job-3")
    with pytest.raises(WorkError, match="code/job-3 has changed nothing"):
        await take(coordinator, nothing, mine)


async def refused(coordinator: Coordinator, run: Path, mine: Path, task_id: str, why: str, **more: str) -> None:
    """Have a run's head brought home as it is, and check that it is refused, and that nothing is changed."""
    changes, files = work_of(run, git(mine, "rev-parse", "HEAD"))
    changes = replace(changes, **more) if more else changes
    status = await settle_with(coordinator, files, changes, task_id=task_id)
    before, objects = git(mine, "for-each-ref"), git(mine, "count-objects", "-v")
    with pytest.raises(WorkError, match=why):
        await take(coordinator, status, mine)
    assert (git(mine, "for-each-ref"), git(mine, "count-objects", "-v")) == (before, objects)


def tree_with(run: Path, *entries: tuple[str, str, bytes]) -> None:
    """Commit a tree that git itself would not make: (mode, name, content)."""
    lines = b""
    for mode, name, content in entries:
        (run / ".git" / "made").write_bytes(content)
        found = git(run, "hash-object", "-w", str(run / ".git" / "made"))
        lines += f"{mode} {name}\0".encode() + bytes.fromhex(found)
    (run / ".git" / "made").write_bytes(lines)
    tree = git(run, "hash-object", "-t", "tree", "-w", "--literally", str(run / ".git" / "made"))
    head = git(run, "commit-tree", tree, "-p", "HEAD", "-m", "made")
    git(run, "update-ref", "HEAD", head)


HOSTILE = {
    "inside of a repository": [("100644", ".git", b"x")],
    "dots": [("100644", "..", b"x")],
    "a path in a name": [("100644", "a/b", b"x")],
    "an option as a submodule": [
        ("100644", ".gitmodules", b'[submodule "a"]\n\tpath = a\n\turl = --upload-pack=touch\n')
    ],
    "a submodule that leads out": [("100644", ".gitmodules", b'[submodule "../../x"]\n\tpath = a\n\turl = b\n')],
    "a link for .gitmodules": [("120000", ".gitmodules", b"/etc/passwd")],
    "twice": [("100644", "a", b"x"), ("100644", "a", b"y")],
}


@pytest.mark.gate("inside", "option", "link")
@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE)
async def test_objects_that_no_git_would_make_are_refused_before_any_is_kept(
    coordinator: Coordinator, tmp_path: Path, home: Path, entries: list[tuple[str, str, bytes]]
) -> None:
    run = repository(tmp_path / "run")
    mine = clone(run, tmp_path / "mine")
    around, files = content_of(home), content_of(mine)
    tree_with(run, *entries)
    await refused(coordinator, run, mine, "job-1", "cannot be taken, and nothing was changed: git fetch failed")
    assert (content_of(home), content_of(mine)) == (around, files)


async def test_a_bundle_that_is_not_what_its_result_says_is_refused(coordinator: Coordinator, tmp_path: Path) -> None:
    run = repository(tmp_path / "run")
    mine = clone(run, tmp_path / "mine")
    base = git(run, "rev-parse", "HEAD")
    edited(run)
    await refused(coordinator, run, mine, "job-1", "and its result names 0000", head="0" * 40)
    await refused(coordinator, run, mine, "job-2", "git fetch failed", branch="another")
    changes, files = work_of(run, base)
    for number, content in enumerate((b"", b"no bundle", files[BUNDLE][:-30], b"\0" * 100_000)):
        status = await settle_with(coordinator, {BUNDLE: content}, changes, task_id=f"job-b-{number}")
        with pytest.raises(WorkError, match="cannot be taken, and nothing was changed"):
            await take(coordinator, status, mine)
    without = await settle_with(coordinator, {}, changes, task_id="job-w")
    with pytest.raises(WorkError, match=r"has left no file 'changes\.bundle'"):
        await take(coordinator, without, mine)
    git(mine, "checkout", "-q", "--orphan", "elsewhere")
    unrelated = commit(mine, "Unrelated")
    status = await settle_with(coordinator, files, replace(changes, base=unrelated), task_id="job-u")
    with pytest.raises(WorkError, match="its commits do not go on from"):
        await take(coordinator, status, mine)


async def test_no_hook_and_no_filter_runs_and_files_that_name_some_are_not_merged_unseen(
    coordinator: Coordinator, tmp_path: Path, home: Path
) -> None:
    run = repository(tmp_path / "run")
    mine = clone(run, tmp_path / "mine")
    touched = home / "touched"
    for name in ("post-checkout", "post-merge", "reference-transaction", "pre-merge-commit", "post-rewrite"):
        for folder in (run, mine):
            (folder / ".git" / "hooks").mkdir(exist_ok=True)
            (folder / ".git" / "hooks" / name).write_text(f"#!/bin/sh\ntouch {touched}\n", encoding="utf-8")
            (folder / ".git" / "hooks" / name).chmod(0o755)
    git(mine, "config", "filter.evil.smudge", f"touch {touched}; cat")
    git(mine, "config", "core.fsmonitor", f"touch {touched}")
    write(run, {"sub/.gitattributes": b"* filter=evil\n", "sub/x": b"x"})
    git(run, "-c", f"core.hooksPath={tmp_path}", "add", "-A")
    git(run, "-c", f"core.hooksPath={tmp_path}", "commit", "-q", "-m", "An edit")
    touched.unlink(missing_ok=True)
    changes, files = work_of(run, git(mine, "rev-parse", "HEAD"))
    touched.unlink(missing_ok=True)
    status = await settle_with(coordinator, files, changes)
    applied = await take(coordinator, status, mine)
    with pytest.raises(WorkError, match=r"it changes sub/.gitattributes, which can have git run programs"):
        check_harmless(applied)
    assert await (await own_repository(mine)).check_ready() == "main"
    assert not touched.exists()
    git(run, "-c", f"core.hooksPath={tmp_path}", "rm", "-q", "sub/.gitattributes")
    git(run, "-c", f"core.hooksPath={tmp_path}", "commit", "-q", "--amend", "-m", "Without")
    changes, files = work_of(run, git(mine, "rev-parse", "HEAD"))
    touched.unlink(missing_ok=True)
    status = await settle_with(coordinator, files, changes, task_id="job-2")
    applied = await take(coordinator, status, mine, "other")
    check_harmless(applied)
    assert await (await own_repository(mine)).merge("other")
    assert not touched.exists()
