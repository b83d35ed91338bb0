"""What an agent has done in its clone comes home: committed or not, with its artifacts, however its run has ended."""

import re
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.errors import WorkError
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.work.applying import apply
from agentbus.tasks.work.own_repository import branch_for, own_repository
from support.harness import BOUND_S, eventually, worker
from support.jobs import outcome, text
from support.repositories import (
    applied,
    artifacts,
    changes,
    content,
    git,
    repository_worker,
    snapshot,
    source_repository,
)

EDITS = """
set -e
git config user.email agent@example.com; git config user.name Agent
echo two >> README
git commit -qam 'Say two'
printf '\\0\\1\\2' > binary
chmod -x run.sh
mkdir -p deep/er; echo new > 'deep/er/a file'
ln -s README link
git mv -k nothing nowhere
rm -f .gitignore.bak
echo hidden > .env
mkdir build; echo x > build/x
mkdir "$AGENTBUS_ARTIFACTS"; echo report > "$AGENTBUS_ARTIFACTS/report.md"
pwd
"""

BRANCHES = """
set -e
git config user.email agent@example.com; git config user.name Agent
commit() { echo "$1" > "$1"; git add "$1"; git commit -qm "$1"; }
case "$(cat)" in
    *'"unchanged"'*) git checkout -qb side; commit side; git checkout -q agentbus/unchanged; exit ;;
esac
git checkout -qb side/one; commit one; git pack-refs --all
git checkout -qb merged; commit merged; git branch tip; commit two
git checkout -q release; git checkout -q --orphan alone; git rm -qrf .; commit alone
git checkout -q agentbus/branches; commit mine; git merge -q --no-edit tip; git branch -D tip
git checkout -qb last; commit .env; git rm -q .env; git commit -qm gone; echo later > later
git update-ref refs/heads/broken HEAD; printf 1234567890123456789012345678901234567890 > .git/refs/heads/broken
git checkout -q agentbus/branches; commit more; git checkout -q last
"""

SESSIONS = """
prompt=$(cat)
echo run >> README
echo '{{"type": "system", "subtype": "init", "session_id": "s-1", "model": "m"}}'
case "$prompt" in
    *'"second"'*) git branch -D main; touch {folder}/began; exec sleep 1000 ;;
esac
echo '{{"type": "result", "subtype": "success", "is_error": false, "result": "done", "session_id": "s-1"}}'
"""


async def test_commits_changes_and_artifacts_come_home_and_the_checkout_of_the_person_stays_as_it_was(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source = source_repository(tmp_path / "source")
    clone = tmp_path / "home" / "clone"
    clone.parent.mkdir()
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    before = snapshot(source)
    async with worker(repository_worker(tmp_path / "worker", server.url, source, EDITS)):
        done = await outcome(coordinator, "edit", task_id="job-1")
    assert (done.state, snapshot(source)) == ("completed", before)
    found = changes(done)
    assert (found.branch, found.base, found.commits) == ("agentbus/job-1", git(source, "rev-parse", "main"), 2)
    assert [one.title for one in found.log] == ["Uncommitted changes of the task job-1", "Say two"]
    assert found.uncommitted
    assert [one.name for one in found.left_out] == [".env"]
    assert set(artifacts(done)) == {"changes.bundle", "changes.patch", "report.md"}
    assert await content(coordinator, done, "report.md") == b"report\n"
    assert artifacts(done)["report.md"].media_type == "text/markdown; charset=utf-8"
    await applied(coordinator, done, clone)
    tree = snapshot(Path(text(done).strip()))
    left = {name: about for name, about in tree.items() if not name.startswith((".git/", "build", ".env"))}
    assert left == {name: about for name, about in snapshot(clone).items() if not name.startswith(".git/")}
    patch = tmp_path / "changes.patch"
    patch.write_bytes(await content(coordinator, done, "changes.patch"))
    git(clone, "checkout", "-q", "--detach", found.base)
    git(clone, "apply", "--index", str(patch))
    assert git(clone, "write-tree") == git(clone, "rev-parse", f"{found.head}^{{tree}}")


async def test_a_follow_up_goes_on_in_the_clone_and_what_a_cancelled_run_has_left_comes_home(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    config = repository_worker(
        folder,
        server.url,
        source,
        SESSIONS.format(folder=folder),
        agent={"output": "claude", "resume_cmd": ["bash", str(folder / "agent.sh"), "--resume", "{session}"]},
    )
    async with worker(config):
        first = await coordinator.publish("code", "first", task_id="job-1", task_type="test")
        await first.result(timeout_s=BOUND_S)
        second = await first.follow_up("second")
        await eventually((folder / "began").exists, "the follow-up runs")
        await second.cancel()
        result = await second.result(timeout_s=BOUND_S)
    assert result.status == "cancelled"
    one, two = await first.status(), await second.status()
    assert (changes(one).branch, changes(two).branch) == ("agentbus/job-1", "agentbus/job-1")
    assert (changes(one).insertions, changes(two).insertions) == (1, 2)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    await applied(coordinator, two, clone)
    assert (clone / "README").read_text(encoding="utf-8") == "one\nrun\nrun\n"


@pytest.mark.parametrize(
    ("source", "task", "error"),
    [
        ("nowhere", {}, r"the repository .*/nowhere: git fetch failed: .*does not appear to be a git repository"),
        ("source", {"base": "origin/gone"}, r"the repository .*/source has no branch, tag or commit origin/gone"),
        ("source", {"base": "0" * 39 + "1"}, r"has no branch, tag or commit 0{39}1"),
        ("sha256", {}, r"the repository .*/sha256 has object ids of SHA-256, and agents work in"),
    ],
)
async def test_a_task_without_a_clone_fails_with_what_has_to_be_put_right(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path, source: str, task: dict[str, str], error: str
):
    source_repository(tmp_path / "source")
    git(tmp_path, "init", "-q", "--object-format=sha256", "sha256")
    git(tmp_path / "sha256", "commit", "-qm", "x", "--allow-empty")
    config = repository_worker(
        tmp_path / "worker", server.url, tmp_path / source, "echo ran", repository={"timeout_seconds": 30, **task}
    )
    async with worker(config):
        done = await outcome(coordinator, "edit")
    assert done.state == "failed"
    assert done.result is not None
    assert done.result.failure is not None
    assert done.result.failure.code == "workspace"
    assert re.search(error, str(done.result.error)), done.result.error


async def test_commits_that_were_not_pushed_go_along_with_a_task_and_its_changes_come_back_on_top(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source, clone = source_repository(tmp_path / "source"), tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    (clone / "own").write_text("not pushed\n", encoding="utf-8")
    git(clone, "add", "own")
    git(clone, "commit", "-q", "-m", "Not pushed")
    base = git(clone, "rev-parse", "HEAD")
    async with worker(repository_worker(tmp_path / "worker", server.url, source, "cat own; echo more >> own")):
        task = await coordinator.publish("code", "go on", task_id="job-1", task_type="test", commits_of=clone)
        result = await task.result(timeout_s=BOUND_S)
    assert (result.status, result.result) == ("completed", "not pushed\n"), result.error
    done = await task.status()
    assert (changes(done).base, changes(done).commits) == (base, 1)
    await applied(coordinator, done, clone)
    assert (clone / "own").read_text(encoding="utf-8") == "not pushed\nmore\n"


async def test_branches_that_are_not_checked_out_come_home_as_well_and_committed_secrets_are_named(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source, clone = source_repository(tmp_path / "source"), tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    git(source, "branch", "release")
    async with worker(repository_worker(tmp_path / "worker", server.url, source, BRANCHES)):
        done = await outcome(coordinator, "branches", task_id="branches")
        unchanged = await outcome(coordinator, "unchanged", task_id="unchanged")
    assert (done.state, unchanged.state) == ("completed", "completed"), done.result
    found = changes(done)
    assert {one.branch: one.commits for one in found.branches} == {"merged": 3, "agentbus/branches-2": 5}
    assert {one.name: one.why for one in found.left_out} == {
        "branch alone": "it does not go on from the base of the task",
        "branch broken": "its commits cannot be read",
    }
    assert (found.uncommitted, found.secrets) == (True, (".env",))
    for status, branch, files in (
        (done, None, {"one", "merged", "mine", "later"}),
        (done, "merged", {"one", "merged", "two"}),
        (done, "agentbus/branches-2", {"one", "merged", "mine", "more"}),
        (unchanged, "side", {"side"}),
    ):
        own = await own_repository(clone)
        made = branch_for(status.task_id, take=branch)
        applied_branch = await apply(coordinator.bus, status, own, made, branch)
        named = git(clone, "diff", "--name-only", applied_branch.changes.base, made).splitlines()
        assert set(named) == files, (branch, named)
    for branch, said in ((None, r"has left other branches: side \(agentbus work apply --take BRANCH\)"),
                         ("none", "has left no further branch 'none'; it has left: side")):  # fmt: skip
        with pytest.raises(WorkError, match=said):
            await apply(coordinator.bus, unchanged, await own_repository(clone), "x", branch)
