"""A repository of a gigabyte in 100,000 files: the clone is made and its work comes home, in bounded memory."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import worker
from support.jobs import publish
from support.repositories import artifacts, changes, git, repository_worker

pytestmark = [pytest.mark.large, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

FILES = 100_000
FILE_BYTES = 10_000
SETTLED_S = 800.0
PEAK_KIB = 200 * 1024
"""Of the worker's own process: an idle one has 40 MiB, and the names of all files 2 MB."""
AGENT = """
for folder in f*; do echo changed >> $folder/0; echo new > $folder/new; done
mkdir "$AGENTBUS_ARTIFACTS"; head -c 100000000 /dev/urandom > "$AGENTBUS_ARTIFACTS/large.bin"
"""


def large_source(folder: Path) -> Path:
    """A bare repository of files that do not compress."""
    git(folder.parent, "init", "-q", "--bare", "-b", "main", str(folder))
    importing = subprocess.Popen(
        ["git", "-C", str(folder), "fast-import", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert importing.stdin is not None
    rng = random.Random(1)
    with importing.stdin as out:
        out.write(b"commit refs/heads/main\ncommitter A <a@example.com> 1700000000 +0000\ndata 3\nAll\n")
        for number in range(FILES):
            out.write(b"M 100644 inline f%d/%d\ndata %d\n" % (number // 100, number % 100, FILE_BYTES))
            out.write(rng.randbytes(FILE_BYTES) + b"\n")
    assert importing.wait() == 0
    return folder


def peak_kib(pid: int) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


async def test_a_gigabyte_in_a_hundred_thousand_files_takes_bounded_memory(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source = large_source(tmp_path / "source.git")
    async with worker(repository_worker(tmp_path / "worker", server.url, source, AGENT)) as child:
        waited = await coordinator.wait([await publish(coordinator, "work", task_id="job-1")], timeout_s=SETTLED_S)
        done, peak = waited.settled["job-1"], peak_kib(child.pid)
    assert done.state == "completed"
    assert changes(done).files == 2 * (FILES // 100)
    assert set(artifacts(done)) == {"changes.bundle", "changes.patch", "large.bin"}
    assert peak < PEAK_KIB, f"{peak} KiB"
