"""`agentbus work`: what a person sees of the work of a task, and what it does in a folder and in a repository."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.protocol.work.results import PATCH, Commit, LeftOut
from agentbus.provision.nats_server import NatsServer
from support.harness import Ran, run_python
from support.left_work import BRANCH, clone, commit, content_of, git, repository, settle_with, work_of, write
from support.pseudo_terminal import on_terminal

pytestmark = pytest.mark.posix("git, and a pseudo-terminal")


async def with_work(coordinator: Coordinator, tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A person's clone, and what a run has left of an edit of the same repository and as a file of its own."""
    run = repository(tmp_path / "run")
    mine = clone(run, tmp_path / "mine")
    write(run, {"a.txt": b"one\n2\n", "long.txt": b"line\n" * 500})
    head = commit(run, "An edit")
    changes, files = work_of(
        run,
        git(mine, "rev-parse", "HEAD"),
        log=(Commit(head, "An edit"),),
        left_out=(LeftOut(".env", "it looks like a secret"),),
        left_out_count=2,
        uncommitted=True,
    )
    files["out/report.md"] = b"# All is well\n"
    left: list[dict[str, str]] = [{"name": "big", "why": "it is larger than allowed"}]
    await settle_with(coordinator, files, changes, left_out=left)
    return mine, files


async def test_what_a_task_has_left_is_one_object_in_a_pipe_and_a_page_on_a_terminal(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    _, files = await with_work(coordinator, tmp_path)
    ran = await run(tmp_path, server, "show", "job-1")
    shown = json.loads(ran.out)
    assert [one["name"] for one in shown["artifacts"]] == list(files)
    assert (shown["changes"]["commits"], shown["changes"]["insertions"]) == (1, 501)
    assert shown["left_out"] == [{"name": "big", "why": "it is larger than allowed"}]
    code, page = await on_terminal("work", "show", "job-1", "--nats-url", server.url, env={"NO_COLOR": "1"})
    assert code == 0
    for part in (
        f"branch {BRANCH}, from ",
        "1 commit, 2 files, +501 -1",
        " An edit",
        "the last commit is the worker's",
        "left out: .env  (it looks like a secret)",
        "left out: 1 file more",
        "out/report.md",
        "left out: big  (it is larger than allowed)",
        "+line",
        "lines more: agentbus work diff code/job-1",
    ):
        assert part in page, page
    _, coloured = await on_terminal("work", "diff", "job-1", "--nats-url", server.url)
    assert "\x1b[32m+line\x1b[0m" in coloured
    piped = await run(tmp_path, server, "diff", "job-1")
    assert piped.out.encode() == files[PATCH]


async def run(folder: Path, server: NatsServer, *words: str, code: int = 0) -> Ran:
    """Run `agentbus work` in a folder."""
    ran = await run_python("-m", "agentbus", "work", *words, "--nats-url", server.url, cwd=folder)
    assert ran.code == code, ran.err
    return ran


async def test_files_are_saved_below_one_folder_and_a_second_time_nothing_changes(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    _, files = await with_work(coordinator, tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    lines = [json.loads(line) for line in (await run(here, server, "fetch", "job-1")).out.splitlines()]
    assert [line["path"] for line in lines] == [f"job-1/{name}" for name in files]
    assert {name: content for name, (_, content) in content_of(here / "job-1").items()} == files
    again = await run(here, server, "fetch", "job-1", "out/report.md")
    assert again.err == "job-1/out/report.md is there already\n"
    refused = await run(here, server, "fetch", "job-1", "../../x", "--to", str(tmp_path), code=1)
    assert "has left no file '../../x'" in refused.err


async def test_changes_become_a_branch_and_are_merged_when_that_is_said(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    mine, _ = await with_work(coordinator, tmp_path)
    git(mine, "config", "user.name", "Me")
    git(mine, "config", "user.email", "me@example.com")
    first = await run(mine, server, "apply", "job-1")
    made = json.loads(first.out)
    assert (made["branch"], made["known"], made["into"]) == (BRANCH, False, None)
    assert f"take it: git merge {BRANCH}, or git cherry-pick " in first.err
    assert (mine / "a.txt").read_bytes() == b"one\ntwo\n"
    again = await run(mine, server, "apply", "job-1", "--merge")
    assert "the branch agentbus/job-1 has the work of code/job-1 already" in again.err
    assert "main has the work of code/job-1 now" in again.err
    assert json.loads(again.out)["done"] is True
    assert (mine / "a.txt").read_bytes() == b"one\n2\n"
    for how in ("--merge", "--cherry-pick"):
        assert json.loads((await run(mine, server, "apply", "job-1", how)).out)["done"] is False
    write(mine, {"a.txt": b"changed"})
    assert "files are changed here: a.txt" in (await run(mine, server, "apply", "job-1", "--merge", code=1)).err
    both = await run(mine, server, "apply", "job-1", "--merge", "--cherry-pick", code=2)
    assert "--merge and --cherry-pick exclude each other." in both.err
    outside = await run(tmp_path, server, "apply", "job-1", code=1)
    assert "lies in no repository that git takes" in outside.err


async def test_tasks_are_compared_side_by_side(server: NatsServer, coordinator: Coordinator, tmp_path: Path) -> None:
    await with_work(coordinator, tmp_path)
    other = git(tmp_path / "run", "rev-parse", "HEAD~1")
    changes, files = work_of(tmp_path / "run", other)
    await settle_with(coordinator, files, changes, task_id="job-2")
    ran = await run(tmp_path, server, "compare", "job-1", "job-2")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [(line["id"], [one["file"] for one in line["shared"]]) for line in lines] == [
        ("code/job-1", ["a.txt", "long.txt"]),
        ("code/job-2", ["a.txt", "long.txt"]),
    ]
    words = ("work", "compare", "job-1", "job-2", "--nats-url", server.url)
    _, page = await on_terminal(*words, env={"NO_COLOR": "1", "COLUMNS": "120"})
    assert "a.txt  code/job-1, code/job-2" in page


@pytest.mark.parametrize(
    ("how", "then"),
    [("--merge", "`git merge agentbus/job-1-docs`"), ("--cherry-pick", "`git cherry-pick HEAD..agentbus/job-1-docs`")],
)
async def test_why_a_further_branch_is_not_merged_at_once_is_said_with_what_to_do(how: str, then: str) -> None:
    ran = await run_python("-m", "agentbus", "work", "apply", "code/job-1", "--take", "docs", how)
    assert ran.code == 2
    assert "the patch of docs was not brought home" in ran.err
    assert "`git log -p HEAD..agentbus/job-1-docs`" in ran.err
    assert then in ran.err
