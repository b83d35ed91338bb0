"""What several tasks changed, side by side: their sizes, and the files that several of them touch."""

import os
from pathlib import Path

import pytest

from agentbus import Coordinator, TaskStatus
from agentbus.tasks.work.comparison import compare, files_of_patch
from support.in_pieces import in_pieces
from support.left_work import commit, git, repository, settle_with, work_of, write


async def test_files_that_two_tasks_change_are_named_with_both(coordinator: Coordinator, tmp_path: Path) -> None:
    run = repository(tmp_path / "run")
    base = git(run, "rev-parse", "HEAD")
    statuses: list[TaskStatus] = []
    for task_id, files in (("job-1", {"a.txt": b"1\n", "ü n.txt": b"x"}), ("job-2", {"a.txt": b"2\n", "c": b""})):
        git(run, "checkout", "-q", "--detach", base)
        write(run, files)
        commit(run, task_id)
        changes, brought = work_of(run, base)
        statuses.append(await settle_with(coordinator, brought, changes, task_id=task_id))
    statuses.append(await settle_with(coordinator, {}, task_id="job-3"))
    found = await compare(coordinator.bus, statuses)
    assert found.overlapping == (("a.txt", ("code/job-1", "code/job-2")),)
    assert [(one.name, one.files, one.insertions, one.shared) for one in found.tasks] == [
        ("code/job-1", 2, 2, 1),
        ("code/job-2", 2, 1, 1),
        ("code/job-3", 0, 0, 0),
    ]
    assert [one["shared"] for one in found.to_json()] == [
        [{"file": "a.txt", "with": ["code/job-2"]}],
        [{"file": "a.txt", "with": ["code/job-1"]}],
        [],
    ]


async def test_names_are_read_from_the_heads_of_a_patch_alone() -> None:
    patch = (
        b'diff --git a/x b/x\n+diff --git a/no b/no\ndiff --git "a/t\\tb" "b/t\\tb"\nrename from old\n'
        b"diff --git a/old b/new name\ndiff --git a/" + b"l" * 5_000 + b" b/y\ndiff --git a/x b/x\nno end"
    )
    for size in (1, 7, len(patch)):
        pieces = in_pieces(*(patch[at : at + size] for at in range(0, len(patch), size)))
        assert await files_of_patch(pieces) == ["x", "t\\tb", "new name"]
    assert await files_of_patch(in_pieces(os.urandom(1_000))) == []


pytestmark = pytest.mark.posix("git with the names of files of POSIX")
