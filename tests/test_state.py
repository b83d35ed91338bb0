"""What a worker keeps on disk: what a killed one has left there is found, or cleared, by the next one."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from agentbus.config import parse_urls
from agentbus_worker.children import end_abandoned
from agentbus_worker.state import locked_state
from harness import eventually, processes_with

URLS = parse_urls("nats://127.0.0.1:7422")
KILLED_WHILE_STARTING = """
import asyncio, os, signal, sys
from pathlib import Path
from agentbus_worker.children import Children
from agentbus_worker.command import Command, Limits, running

Children.started = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

async def main():
    folder, run_id = Path(sys.argv[1]), "run-of-a-test"
    command = Command(["sleep", "600"], {**os.environ, "AGENTBUS_RUN_ID": run_id}, run_id, "task-1")
    async with running(command, Limits(600, 1, 1), Children(folder), folder):
        pass

asyncio.run(main())
"""


def test_files_that_a_killed_worker_has_written_halfway_are_cleared(tmp_path: Path):
    with locked_state(tmp_path, URLS, "code") as [slot]:
        whole = [slot.outbox / "nonce.json", slot.children / "run.json"]
        halves = [slot.outbox / "other.json.part", slot.children / "other.part", slot.tmp / "run.out"]
        for path in (*whole, *halves):
            path.write_text("{")
    with locked_state(tmp_path, URLS, "code") as [slot]:
        assert [path.exists() for path in whole] == [True, True]
        assert [path.exists() for path in halves] == [False, False, False]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their environment on Linux alone")
async def test_a_command_whose_worker_was_killed_while_it_started_it_is_on_record(tmp_path: Path):
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED_WHILE_STARTING, str(tmp_path))
    assert await worker.wait() == -signal.SIGKILL
    [record] = tmp_path.glob("*.json")
    assert json.loads(record.read_text())["task_id"] == "task-1"
    assert processes_with("AGENTBUS_RUN_ID=run-of-a-test")
    await end_abandoned([tmp_path], grace_s=1)
    await eventually(lambda: not processes_with("AGENTBUS_RUN_ID=run-of-a-test"), "the command is ended")
    assert [*tmp_path.iterdir()] == []
