"""Clones that are not needed any more are removed, the oldest first, and none that holds what is not at home."""

import asyncio
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.config.loading import load_worker
from agentbus.errors import MachineFaultError, WorkspaceError
from agentbus.git.running import RUNNING
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.work.task_work import SentObject, Work
from agentbus_worker.disk.threads import AT_ONCE
from agentbus_worker.repositories.clone import Clone, write_record
from agentbus_worker.repositories.clones import Clones
from support.harness import eventually
from support.repositories import git, repository_worker, source_repository


def clones_of(folder: Path, source: Path | str, **keys: float) -> Clones:
    config, _ = load_worker(repository_worker(folder, "nats://127.0.0.1:4222", source, "", repository=keys))
    return Clones(config, folder / "base", AT_ONCE)


async def made(clones: Clones, *tasks: str) -> list[Clone]:
    stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return [await clones.of_task(TaskKey("code", task), task, None, stop) for task in tasks]


async def test_the_oldest_clone_goes_where_there_are_too_many_unless_it_is_in_use_or_not_at_home(tmp_path: Path):
    clones = clones_of(tmp_path / "worker", source_repository(tmp_path / "source"), max_clones=1)
    not_home, in_use, old, new = await made(clones, "not-home", "in-use", "old", "new")
    not_home.note(home=False)
    for clone in (not_home, old, new):
        clone.close()
    (cut := old.folder.with_name("cut") / "tree").mkdir(parents=True)
    clones.begin_to_remove_old()
    assert not cut.parent.exists(), "what a killed worker had begun to make is no clone"
    assert [clone.folder.exists() for clone in (not_home, in_use, old, new)] == [True, True, False, False]
    in_use.close()


async def test_a_clone_that_was_not_used_for_long_goes_and_so_do_the_oldest_where_all_take_too_much_room(
    tmp_path: Path,
):
    clones = clones_of(tmp_path / "worker", source_repository(tmp_path / "source"), max_clones_bytes=2000)
    unused, large, small = await made(clones, "unused", "large", "small")
    large.note(home=True, size=1500)
    small.note(home=True, size=1000)
    write_record(unused.folder, replace(unused.record, used_at=time.time() - 15 * 86_400))  # session_days is 14
    for clone in (unused, large, small):
        clone.close()
    clones.begin_to_remove_old()
    assert [clone.folder.exists() for clone in (unused, large, small)] == [False, False, True]
    assert not unused.folder.with_name("unused.lock").exists()


async def test_clones_of_one_source_borrow_its_objects_and_have_all_else_of_their_own(tmp_path: Path):
    source = source_repository(tmp_path / "source")
    first, second = await made(clones_of(tmp_path / "worker", source), "first", "second")
    objects = first.tree / ".git" / "objects"
    assert not [path for path in objects.rglob("*") if path.is_file() and path.name != "alternates"]
    git(first.tree, "config", "core.x", "y")
    git(first.tree, "branch", "mine")
    git(first.tree, "gc", "-q", "--prune=now")
    assert git(second.tree, "for-each-ref", "--format=%(refname)", "refs/heads") == "refs/heads/agentbus/second"
    assert git(second.tree, "config", "--get", "remote.origin.url") == str(source)
    assert git(second.tree, "status", "--porcelain") == ""
    assert (second.tree / "run.sh").stat().st_mode & 0o111
    for clone in (first, second):
        clone.close()


async def test_an_agent_can_commit_whatever_repository_the_worker_was_started_in(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    source, started_in = source_repository(tmp_path / "source"), tmp_path / "started-in"
    git(tmp_path, "init", "-q", str(started_in))
    git(started_in, "config", "user.email", "me@example.com")
    monkeypatch.chdir(started_in)

    async def identity_of(task: str) -> str:
        [clone] = await made(clones_of(tmp_path / task, source), task)
        clone.close()
        return git(clone.tree, "config", "--get", "user.email", check=False)

    assert await identity_of("without") == "agentbus@localhost"
    (home / ".gitconfig").write_text("[user]\nemail = of-the-user@example.com\n", encoding="utf-8")
    assert await identity_of("with") == "", "git knows who the user is"


async def test_a_source_that_does_not_answer_is_not_waited_for_longer_than_configured(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"git://127.0.0.1:{silent.getsockname()[1]}/repository"
        clones = clones_of(tmp_path / "worker", source, timeout_seconds=0.5)
        with pytest.raises(WorkspaceError, match=r"git fetch has not ended within 0\.5 s, and was ended"):
            await made(clones, "job-1")


async def test_a_task_that_brings_its_own_commits_starts_from_them_and_no_other_clone_has_them(tmp_path: Path):
    source = source_repository(tmp_path / "source")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    (clone / "README").write_text("of the coordinator\n", encoding="utf-8")
    git(clone, "commit", "-q", "-am", "Not pushed")
    commit = git(clone, "rev-parse", "HEAD")
    git(clone, "branch", "sent")
    git(clone, "bundle", "create", "-q", str(tmp_path / "sent.bundle"), "sent", "^origin/main")

    async def lay(folder: Path) -> Path:
        return Path(shutil.copy(tmp_path / "sent.bundle", folder / "sent.bundle"))

    bundle = SentObject(bytes=1, sha256="0" * 64, object="sent")
    clones, stop = clones_of(tmp_path / "worker", source), asyncio.get_running_loop().create_future()
    first = await clones.of_task(TaskKey("code", "1"), "1", Work(base=commit, bundle=bundle), stop, lay)
    assert first.record.base == commit
    assert (first.tree / "README").read_text(encoding="utf-8") == "of the coordinator\n"
    first.close()
    [second] = await made(clones, "2")
    with pytest.raises(AssertionError, match="cat-file"):
        git(second.tree, "cat-file", "-e", commit)
    second.close()
    (tmp_path / "sent.bundle").write_bytes(b"no bundle")
    with pytest.raises(WorkspaceError, match="the commits that the task brings cannot be used"):
        await clones.of_task(TaskKey("code", "3"), "3", Work(base=commit, bundle=bundle), stop, lay)


async def test_a_task_that_is_stopped_while_its_clone_is_made_leaves_none_and_no_command_of_git(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"git://127.0.0.1:{silent.getsockname()[1]}/repository"
        clones = clones_of(tmp_path / "worker", source)
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        making = asyncio.create_task(clones.of_task(TaskKey("code", "1"), "1", None, stop))
        await eventually(lambda: bool(RUNNING), "git asks the server")
        stop.set_result(None)
        with pytest.raises(MachineFaultError, match="stopped"):
            await making
        assert not RUNNING
