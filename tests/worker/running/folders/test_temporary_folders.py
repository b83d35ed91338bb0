"""Each run has a temporary folder of its own, which is private, and gone with the run however that ends."""

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.running.folders import temporary_folders
from agentbus_worker.running.folders.temporary_folders import TemporaryFolders
from support.harness import eventually, worker, worker_toml
from support.jobs import pid_from, publish, settled, short_lease, text
from support.supervised import kill_with_supervisors

SCRIPT = """
echo "$TMPDIR"
echo secret > "$(mktemp)"; mkdir -p "$TMPDIR/cache/deep"; chmod 500 "$TMPDIR/cache"
echo "$TMPDIR" > "{folder}/told.part"; mv "{folder}/told.part" "{folder}/told"
case "$1" in
  *fail*) exit 3;;
  *stay*) echo $$ > "{folder}/pid.part"; mv "{folder}/pid.part" "{folder}/pid"; exec sleep 1000;;
esac
"""


def config(folder: Path, server: NatsServer, **more: float) -> Path:
    chat_cmd = ["sh", "-c", SCRIPT.format(folder=folder), "agent", "{input}"]
    return worker_toml(folder, server.url, chat_cmd=chat_cmd, worker={"kill_grace_seconds": 0.5, **more})


def told(folder: Path) -> Path:
    return Path((folder / "told").read_text(encoding="utf-8").strip())


async def removed(folder: Path) -> None:
    async def gone() -> bool:
        return not folder.exists()

    await eventually(gone, f"{folder} is removed")


@pytest.fixture
def machine_tmp() -> Iterator[Path]:
    """The machine's temporary folder, in which nothing is left."""
    folder = Path(os.environ["TMPDIR"])
    yield folder
    assert not list(folder.glob("agentbus-*"))


@pytest.mark.parametrize(("content", "state"), [("do it", "completed"), ("fail", "failed"), ("stay", "failed")])
async def test_what_a_run_leaves_in_its_temporary_folder_goes_when_it_ends(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, machine_tmp: Path, content: str, state: str
):
    limit = {"task_timeout_seconds": 1} if content == "stay" else {}
    async with worker(config(tmp_path, server, **limit)):
        status = await settled(coordinator, await publish(coordinator, content))
        folder = told(tmp_path)
        await removed(folder)
        assert status.state == state
        assert text(status).strip() == str(folder)
        assert folder.parent.parent == machine_tmp, "its path is short"
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


async def test_a_cancelled_run_leaves_no_temporary_folder_and_the_next_run_has_another(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, machine_tmp: Path
):
    async with worker(config(tmp_path, server)):
        task_id = await publish(coordinator, "stay")
        await pid_from(tmp_path / "pid")
        first = told(tmp_path)
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
        await coordinator.task(task_id).cancel()
        assert (await settled(coordinator, task_id)).state == "cancelled"
        await removed(first)
        await settled(coordinator, await publish(coordinator, "do it"))
        assert told(tmp_path) not in (first, machine_tmp)


async def test_a_worker_that_stops_in_a_run_leaves_no_temporary_folder(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, machine_tmp: Path
):
    async with worker(config(tmp_path, server, drain_timeout_seconds=0.1)) as child:
        await publish(coordinator, "stay")
        await pid_from(tmp_path / "pid")
        child.terminate()
        assert await child.exit_code() == 0
    assert not told(tmp_path).parent.exists()


@pytest.mark.parametrize("with_other", [False, True])
async def test_the_next_worker_removes_the_temporary_folders_of_one_that_was_killed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, machine_tmp: Path, *, with_other: bool
):
    await short_lease(coordinator)
    async with worker(config(tmp_path, server)) as killed:
        task_id = await publish(coordinator, "stay")
        await pid_from(tmp_path / "pid")
        left = told(tmp_path)
        assert left.exists()
        kill_with_supervisors(killed)
        await killed.exit_code()
    assert left.exists(), "a killed worker removes nothing"
    if with_other:  # the folder of the killed worker is not the first that is free
        numbers = next(tmp_path.glob("state/*/code"))
        (numbers / "0").rename(numbers / "1")
    async with worker(config(tmp_path, server)):
        await removed(left.parent)
        await coordinator.task(task_id).cancel()
        await settled(coordinator, task_id)


async def test_a_worker_whose_temporary_folder_was_cleared_makes_another_one(
    tmp_path: Path, machine_tmp: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(temporary_folders, "_FRESH_S", 0.0)  # one that was made ahead has lain for long
    records = tmp_path / "records"
    records.mkdir()
    with TemporaryFolders(records) as folders:
        async with folders.of_run() as first:
            pass
        shutil.rmtree(first.parent)
        async with folders.of_run() as second:
            assert second.is_dir()
        second.parent.chmod(0o777)  # then it may be another user's
        async with folders.of_run() as third:
            assert third.parent not in (first.parent, second.parent)
        second.parent.chmod(0o700)


async def test_each_run_has_a_folder_that_no_other_run_had_or_gets(tmp_path: Path, machine_tmp: Path):
    records = tmp_path / "records"
    records.mkdir()
    used: list[Path] = []
    with TemporaryFolders(records) as folders:
        for _ in range(3):
            async with folders.of_run() as one, folders.of_run() as other:
                (one / "file").touch()
                assert not list(other.iterdir())
                used += [one, other]
            await removed(one)
            await removed(other)
    assert len(set(used)) == len(used)


def leave_alone(_: Path) -> None:
    return


def make_a_file(folder: Path) -> None:
    (folder / "file").touch()


def change_mode(folder: Path) -> None:
    folder.chmod(0o500)
    folder.chmod(0o700)


def make_and_remove_a_file(folder: Path) -> None:
    (folder / "file").touch()
    (folder / "file").unlink()


def replace(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.mkdir(mode=0o700)


@pytest.mark.parametrize(
    ("touch", "ended", "again"),
    [
        (leave_alone, True, True),
        (leave_alone, False, False),
        (make_a_file, True, False),
        (make_and_remove_a_file, True, False),
        (change_mode, True, False),
        (replace, True, False),
        (Path.rmdir, True, False),
    ],
    ids=["nothing", "a process", "a file", "a removed file", "its mode", "another folder", "no folder"],
)
async def test_a_later_run_gets_a_folder_that_was_not_touched_and_of_which_no_process_is_left(
    tmp_path: Path, machine_tmp: Path, touch: Callable[[Path], None], *, ended: bool, again: bool
):
    records = tmp_path / "records"
    records.mkdir()
    with TemporaryFolders(records) as folders:
        async with folders.of_run() as first:
            pass
        await removed(first)  # from here on another one lies ready
        ready = time.monotonic()
        await eventually(lambda: time.monotonic() - ready > 0.06, "the clock of the file system goes on")
        run = folders.of_run()
        async with run as second:
            touch(second)
            if ended:
                run.no_process_left()
        async with folders.of_run() as third:
            assert (third == second) == again
            assert third.is_dir()
            assert not list(third.iterdir())


async def test_a_run_that_begins_right_after_its_folder_was_made_is_not_trusted_to_have_left_it_alone(
    tmp_path: Path, machine_tmp: Path
):
    records = tmp_path / "records"
    records.mkdir()
    with TemporaryFolders(records) as folders:
        run = folders.of_run()
        async with run as first:
            (first / "file").touch()  # in the same tick of the clock
            run.no_process_left()
        async with folders.of_run() as second:
            assert second != first


@pytest.mark.skipif(sys.platform != "linux", reason="only a supervisor knows that no process is left")
async def test_quick_runs_share_a_folder_that_none_of_them_touches(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, machine_tmp: Path
):
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", 'echo "$TMPDIR"', "agent", "{input}"])
    told: list[str] = []

    async def again() -> bool:
        told.append(text(await settled(coordinator, await publish(coordinator, "quick"))))
        return told[-1] in told[:-1]

    async with worker(config):
        await eventually(again, "a run has the folder of an earlier one")


@pytest.mark.parametrize("left", ["nothing", "a file", "a link"])
async def test_what_a_run_has_put_in_place_of_its_folder_is_removed(tmp_path: Path, machine_tmp: Path, left: str):
    records = tmp_path / "records"
    records.mkdir()
    with TemporaryFolders(records) as folders:
        async with folders.of_run() as first:
            first.rmdir()
            if left == "a file":
                first.touch()
            elif left == "a link":
                first.symlink_to(tmp_path)
        await eventually(lambda: not os.path.lexists(first), "what it has put there is removed")
    assert tmp_path.is_dir()


async def test_only_folders_of_this_kind_are_removed_by_what_a_record_names(tmp_path: Path, machine_tmp: Path):
    records, other = tmp_path / "records", tmp_path / "other"
    for folder in (records, other, machine_tmp / "agentbus-open"):
        folder.mkdir(mode=0o755)
    (records / "one").symlink_to(other)
    (records / "two").symlink_to(machine_tmp / "agentbus-open")
    (records / "three").symlink_to(machine_tmp / "agentbus-gone")
    (records / "four").write_text("no link", encoding="utf-8")
    with TemporaryFolders(records):
        pass
    assert other.is_dir()
    assert [path.name for path in records.iterdir()] == ["four"]
    (machine_tmp / "agentbus-open").rmdir()
