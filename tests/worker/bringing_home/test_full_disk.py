"""A disk that is full before a run has the task wait; while work is brought home, it costs what does not fit.

That is named, and all else comes home.
"""

import os
import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.protocol.work.results import LeftOut, left_out_in
from agentbus.provision.nats_server import NatsServer
from support.file_faults import full_disk
from support.harness import eventually, worker
from support.jobs import publish, settled
from support.repositories import artifacts, changes, content, git, repository_worker, source_repository

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit is a command of Linux")

LIMIT = 400_000
"""How large a file of the worker and of git may get; the agent lifts that for itself, as it has another disk."""
AGENT = """
ulimit -S -f unlimited
echo two > README
mkdir "$AGENTBUS_ARTIFACTS"; cd "$AGENTBUS_ARTIFACTS"
echo small > small.txt
case "$(cat)" in
    *'"copy"'*) head -c 500000 /dev/zero > large.bin; echo later > later.txt ;;
    *) for name in a b c d; do head -c 200000 /dev/urandom > "$OLDPWD/$name"; done ;;
esac
"""


def at_home(folder: Path) -> dict[str, bool]:
    """Of which clones all is at home."""
    records = folder.glob("state/*/code/clones/*/record.json")
    return {path.parent.name: '"home": true' in path.read_text(encoding="utf-8") for path in records}


async def test_what_finds_no_room_is_named_and_the_task_is_settled_with_the_rest(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    config = repository_worker(folder, server.url, source, AGENT, worker={"concurrency": 2})
    async with worker(config, prefix=("prlimit", f"--fsize={LIMIT}:unlimited", "--")) as child:
        tasks = [await publish(coordinator, word, task_id=word) for word in ("copy", "bundle")]
        copy, bundle = [await settled(coordinator, task_id) for task_id in tasks]
        homes = {"copy": True, "bundle": False}
        await eventually(lambda: at_home(folder) == homes, "a clone whose changes are not at home is marked")
        assert not child.said("Traceback")
    assert (copy.state, bundle.state) == ("completed", "completed")
    assert set(artifacts(copy)) == {"changes.bundle", "changes.patch", "small.txt", "later.txt"}
    assert await content(coordinator, copy, "later.txt") == b"later\n"
    assert copy.result is not None
    [left] = left_out_in(copy.result.to_json())
    assert left == LeftOut("large.bin", "the disk of the worker refuses it: File too large")
    assert changes(copy).files == 1

    assert set(artifacts(bundle)) == {"small.txt"}
    assert bundle.result is not None
    [left] = left_out_in(bundle.result.to_json())
    assert left.name == "changes.bundle"
    assert left.why.startswith("git bundle failed"), left.why


async def test_a_task_waits_while_there_is_no_room_for_the_mirror_or_the_clone_and_nothing_of_them_is_left(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source, folder, state = source_repository(tmp_path / "source"), tmp_path / "worker", tmp_path / "disk"
    with full_disk(state, kib=8192) as fill:
        config = repository_worker(folder, server.url, source, "cat large | wc -c", worker={"state_dir": state})
        async with worker(config) as child:
            for name, content, fails in (
                ("mirror", os.urandom(500_000), "git fetch failed"),
                ("clone", b"x" * 3_000_000, "git checkout failed"),  # takes little room in the mirror
            ):
                (source / "large").write_bytes(content)
                git(source, "add", "large")
                git(source, "commit", "-qnm", name)
                fill()
                os.truncate(state / "filler", (state / "filler").stat().st_size - 200_000)
                task_id = await publish(coordinator, "work", task_id=name)
                await child.until_said(f"task {name}: handed back unrun")
                left = [path for path in state.rglob("*") if path.name.startswith(("tmp_", ".tmp"))]
                assert not left, left
                assert not list(state.glob(f"*/code/clones/{name}/"))
                (state / "filler").unlink()
                done = await settled(coordinator, task_id)
                assert (done.state, done.record.entry.attempt) == ("completed", 1), done.result
                assert done.result is not None
                assert str(done.result.result).strip() == str(len(content))
                assert child.said(fails)
            assert not child.said("Traceback")
