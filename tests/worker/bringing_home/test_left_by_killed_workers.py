"""What a run has left comes home also where its worker is killed before the upload; or it is kept."""

import json
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.protocol.ledger_entry import Record, lease_ended
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.settle import Won, compare_and_set
from support.harness import SUPPORT, eventually, process, run_cli, worker
from support.jobs import publish, result_messages, settled
from support.outage import Outage, outage_of
from support.repositories import artifacts, changes, content, repository_worker, source_repository

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere it cannot be known that no process is left, and the lease decides"
)

SCRIPT = """
echo ran >> {folder}/runs
echo two > README
mkdir -p "$AGENTBUS_ARTIFACTS"; echo report > "$AGENTBUS_ARTIFACTS/report.txt"
[ -e {folder}/go ] || {{ touch {folder}/began; while [ ! -e {folder}/go ]; do sleep 0.05; done; }}
"""


@pytest.fixture
async def outage(tmp_path: Path) -> AsyncGenerator[Outage]:
    async with outage_of(tmp_path / "nats") as held:
        yield held


def parcels(folder: Path, place: str = "*/parcels") -> list[Path]:
    return list(folder.glob(f"state/*/code/{place}/*/parcel.json"))


async def killed_before_its_upload(outage: Outage, config: Path, folder: Path) -> str:
    """A task whose worker was killed when all that its run has left was on disk, and nothing on the bus."""
    async with worker(config) as child:
        task_id = await publish(outage.bus, "work", task_id="job-1")
        await eventually((folder / "began").exists, "the command runs")
        outage.begin()
        (folder / "go").touch()
        await eventually(lambda: parcels(folder), "what the run has left is on disk")
        child.kill()
    await outage.end()
    return task_id


async def test_the_next_worker_brings_home_what_a_killed_one_had_collected_and_runs_nothing_again(
    outage: Outage, tmp_path: Path
):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    config = repository_worker(folder, outage.url, source, SCRIPT.format(folder=folder))
    task_id = await killed_before_its_upload(outage, config, folder)
    async with worker(config):
        done = await settled(outage.bus, task_id)
        assert done.state == "completed"
        assert await content(outage.bus, done, "report.txt") == b"report\n"
        assert set(artifacts(done)) == {"changes.bundle", "changes.patch", "report.txt"}
        assert (changes(done).files, changes(done).uncommitted) == (1, True)
        await eventually(lambda: not parcels(folder), "what is at home is removed")
    assert (folder / "runs").read_text(encoding="utf-8").split() == ["ran"]
    assert len(await result_messages(outage.bus)) == 1


async def test_the_work_of_a_killed_worker_is_kept_where_the_task_was_taken_over(outage: Outage, tmp_path: Path):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    config = repository_worker(folder, outage.url, source, SCRIPT.format(folder=folder))
    task_id = await killed_before_its_upload(outage, config, folder)
    ledger, key = Ledger(outage.bus.bus), TaskKey("code", task_id)
    found = await ledger.read(key)
    assert isinstance(found, Record)
    taken = await compare_and_set(ledger, key, lease_ended(found.entry, "another"), revision=found.revision)
    assert isinstance(taken, Won)
    async with worker(config) as child:
        await child.until_said("agentbus work rescue lists it")
        assert (await settled(outage.bus, task_id)).state == "completed", "the other attempt is this worker's, too"
        [kept] = parcels(folder, "rescue")
        assert sorted(path.name for path in kept.parent.iterdir()) == [
            "2", "changes.bundle", "changes.patch", "parcel.json",
        ]  # fmt: skip
        assert (kept.parent / "2").read_text(encoding="utf-8") == "report\n"
    rescue = ("work", "rescue", "--config", str(config))
    listed = json.loads((await run_cli(*rescue)).out)
    assert (listed["task_id"], listed["kind"]) == ("job-1", "files")
    saved = await run_cli(*rescue, "job-1", "--to", str(tmp_path / "saved"), "--remove")
    assert saved.code == 0, saved.err
    assert (tmp_path / "saved" / "report.txt").read_text(encoding="utf-8") == "report\n"
    assert not kept.exists()


async def test_a_worker_killed_within_the_upload_is_followed_by_one_that_brings_home_all_of_it_once(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    (folder / "go").parent.mkdir()
    (folder / "go").touch()
    config = repository_worker(folder, server.url, source, SCRIPT.format(folder=folder), worker={"keep_workdir": False})
    argv = [sys.executable, str(SUPPORT / "dying.py"), "file half stored", "worker", "run", "--config", str(config)]
    with process(argv, tmp_path / "dying.log") as child:
        await child.until_said("ready for tasks")
        task_id = await publish(coordinator, "work", task_id="job-1")
        assert await child.exit_code() == -signal.SIGKILL
    async with worker(config):
        done = await settled(coordinator, task_id)
        assert await content(coordinator, done, "report.txt") == b"report\n"
        assert set(artifacts(done)) == {"changes.bundle", "changes.patch", "report.txt"}
        await eventually(lambda: not list(folder.glob("state/*/code/clones/*")), "the clone is gone, as configured")
        assert not parcels(folder)
    assert (folder / "runs").read_text(encoding="utf-8").split() == ["ran"]
    assert len(await result_messages(coordinator)) == 1
