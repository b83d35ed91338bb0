"""The state folder of a worker: locked, private to its user, and taken over after a worker was killed."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.config.urls import parse_urls
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.log.lines import TextFormatter
from agentbus_worker.running import orphans
from agentbus_worker.running.orphans import end_orphans
from agentbus_worker.running.process_tree import Children, RecordedTask, Run, is_being_loaded
from agentbus_worker.state_folder import lock_state, write_atomically
from support.file_faults import dies_before_replacing
from support.harness import BOUND_S, eventually, processes_with, worker, worker_toml
from support.jobs import (
    acknowledged,
    agent_keys,
    outcome,
    pid_from,
    publish,
    result_messages,
    settled,
    short_lease,
    text,
)
from support.supervised import kill_with_supervisors

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="processes are found by their environment on Linux alone"
)
URLS = parse_urls("nats://127.0.0.1:7422")
KILLED_WHILE_STARTING = """
import asyncio, os, signal, sys
from pathlib import Path
from agentbus_worker.running.process_tree import Children
from agentbus_worker.running.command import Limits, running
from agentbus_worker.running.spawn import Command

Children.started = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

async def main():
    folder = Path(sys.argv[1])
    with Children(folder) as children:
        run_id = children.new_run_id()
        environment = {**os.environ, "AGENTBUS_RUN_ID": run_id, "AGENTBUS_TASK_ID": sys.argv[2]}
        command = Command(["sleep", "600"], environment, run_id, sys.argv[2])
        async with running(command, Limits(600, 1, 1), children, folder):
            pass

asyncio.run(main())
"""


def test_incomplete_files_of_a_killed_worker_are_deleted(tmp_path: Path):
    with lock_state(tmp_path, URLS, "code") as slot:
        whole = [slot.outbox / "nonce.json", slot.children / "run.json"]
        halves = [slot.outbox / "other.json.part", slot.children / "other.part", slot.tmp / "run.out"]
        for path in (*whole, *halves):
            path.write_text("{", encoding="utf-8")
    with lock_state(tmp_path, URLS, "code") as slot:
        assert [path.exists() for path in whole] == [True, True]
        assert [path.exists() for path in halves] == [False, False, False]


def test_a_worker_that_dies_while_it_writes_leaves_the_earlier_file_and_what_the_next_start_clears(tmp_path: Path):
    with lock_state(tmp_path, URLS, "code") as slot:
        entry = slot.outbox / "nonce.json"
        write_atomically(entry, b"old")
        writes = (
            "import sys; from agentbus_worker.state_folder import write_atomically;"
            "write_atomically(Path(sys.argv[1]), b'new')"
        )
        dies_before_replacing(writes, entry)
        assert entry.read_bytes() == b"old"
        assert {path.name for path in slot.outbox.iterdir()} == {"nonce.json", "nonce.json.part"}
    with lock_state(tmp_path, URLS, "code") as slot:
        assert {path.name: path.read_bytes() for path in slot.outbox.iterdir()} == {"nonce.json": b"old"}


def test_writing_into_the_state_folder_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_atomically(tmp_path / "run.json", b"{}")
    assert synced == []
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("run.json", 0o600)]


@linux_only
@pytest.mark.parametrize("task_id", ["task-of-a-test", "no id\nof a task"])
async def test_a_command_whose_worker_was_killed_during_its_start_is_found_and_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, task_id: str
):
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED_WHILE_STARTING, str(tmp_path), task_id)
    assert await worker.wait() == -signal.SIGKILL
    await eventually(lambda: processes_with(f"AGENTBUS_TASK_ID={task_id}"), "the command is there")
    await end_orphans(tmp_path, grace_s=1)
    await eventually(lambda: not processes_with(f"AGENTBUS_TASK_ID={task_id}"), "the command is ended")
    assert [*tmp_path.iterdir()] == []
    named = task_id if task_id == "task-of-a-test" else "unknown"
    [record] = caplog.records
    assert TextFormatter().format(record).endswith(f" WARNING task {named}: ending 1 processes of an earlier run")


@pytest.mark.parametrize(
    ("record", "same"),
    [
        (RecordedTask("job", "main"), True),
        (RecordedTask("job"), True),
        (RecordedTask("job", "alice"), False),
        (RecordedTask("other", "main"), False),
    ],
    ids=["its own", "of an earlier version, which names no owner", "of another owner", "of another task"],
)
def test_a_record_is_that_of_a_task_of_the_same_id_and_owner(record: RecordedTask, same: bool):
    assert record.may_be("job", "main") == same


def test_the_record_of_a_command_names_the_owner_of_its_task(tmp_path: Path):
    with Children(tmp_path) as children:
        children.record(Run(os.getpid(), "run-1"), "job", "alice")
        record = json.loads((tmp_path / "run-1.json").read_bytes())
    assert (record["task_id"], record["owner"]) == ("job", "alice")


@linux_only
async def test_a_process_between_fork_and_exec_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that was started by a worker that died right then has no environment yet; this one takes longer over it."""
    (tmp_path / "token.json").write_text('{"worker": "token"}', encoding="utf-8")
    script = f"touch {tmp_path}/there; sleep 0.3; AGENTBUS_RUN_ID=token-1 AGENTBUS_TASK_ID=task-1 exec sleep 600"
    child = await asyncio.create_subprocess_exec("/bin/sh", "-c", script, env={})
    await eventually((tmp_path / "there").exists, "it runs")

    def is_being_loaded(pid: int) -> bool:
        with contextlib.suppress(OSError):  # it has ended by now
            return pid == child.pid and b"AGENTBUS_RUN_ID" not in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    monkeypatch.setattr(orphans, "is_being_loaded", is_being_loaded)
    try:
        await end_orphans(tmp_path, grace_s=1)
        assert child.pid not in processes_with("AGENTBUS_RUN_ID=token-1")
        assert await asyncio.wait_for(child.wait(), BOUND_S) == -signal.SIGTERM
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@linux_only
async def test_what_may_not_have_been_found_is_told_and_looked_for_again_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "token.json").write_text('{"worker": "token"}', encoding="utf-8")
    child = await asyncio.create_subprocess_exec("/bin/sleep", "600", env={})

    def is_being_loaded(pid: int) -> bool:
        return pid == child.pid

    monkeypatch.setattr(orphans, "is_being_loaded", is_being_loaded)
    monkeypatch.setattr(orphans, "_LOADING_TIMEOUT_S", 0.1)
    try:
        assert await end_orphans(tmp_path, grace_s=1) == ({}, False)
        assert [path.name for path in tmp_path.iterdir()] == ["token.json"]
        monkeypatch.undo()
        assert await end_orphans(tmp_path, grace_s=1) == ({}, True)
        assert [*tmp_path.iterdir()] == []
    finally:
        child.kill()
        await child.wait()


@linux_only
def test_a_process_between_fork_and_exec_differs_from_one_that_hides_its_environment():
    seen = 0
    for number in range(3000):
        pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], {"NAME": "value"} if number % 2 else {}, setsid=True)
        try:
            environment = Path(f"/proc/{pid}/environ")
            before, loading, after = environment.read_bytes(), is_being_loaded(pid), environment.read_bytes()
            if number % 2:
                assert (before, loading) in ((b"", True), (b"", False), (b"NAME=value\0", False))
                assert loading or after, "it has no environment, and is said to be loaded"
                seen += loading
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if seen >= 3 and number > 50:
            break
    assert seen, "no process was met while it was loaded"
    hiding = subprocess.Popen(["/bin/sleep", "600"], env={})
    try:
        deadline = time.monotonic() + 10
        while is_being_loaded(hiding.pid) and time.monotonic() < deadline:
            pass
        assert not is_being_loaded(hiding.pid)
        assert not is_being_loaded(os.getpid())
        assert not is_being_loaded(2), "a kernel thread has no program"
    finally:
        hiding.kill()
        hiding.wait()


# -- a place for each worker ------------------------------------------------------------------------------------


def slots(folder: Path, agent: str = "code") -> list[str]:
    return sorted(path.name for path in (folder / "state").glob(f"*/{agent}/*") if path.is_dir())


async def test_each_replica_has_a_folder_of_its_own_and_takes_a_free_one(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url)
    async with worker(config):
        async with worker(config):
            assert slots(tmp_path) == ["0", "1"]
            async with worker(config), worker(worker_toml(tmp_path, server.url, agent="doc")):
                assert slots(tmp_path) == ["0", "1", "2"]
                assert slots(tmp_path, "doc") == ["0"]
        async with worker(config):
            assert slots(tmp_path) == ["0", "1", "2"]


@pytest.mark.parametrize("bus", ["there", "out of reach"])
async def test_the_number_of_folders_does_not_grow_over_restarts_of_three_replicas(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, bus: str
):
    config = worker_toml(tmp_path, server.url if bus == "there" else "nats://127.0.0.1:1")
    for attempt in range(4):
        async with (
            worker(config, ready=False) as one,
            worker(config, ready=False) as two,
            worker(config, ready=False) as three,
        ):
            for child in (one, two, three):
                await child.until_said("ready for tasks" if bus == "there" else "trying again about every")
            if attempt % 2:
                for child in (one, two, three):
                    child.kill()
        assert slots(tmp_path) == ["0", "1", "2"], f"after restart {attempt}"


async def test_one_worker_takes_over_the_folders_of_three_killed_ones(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    config = worker_toml(tmp_path, server.url, worker={"kill_grace_seconds": 0.5})
    async with worker(config) as one, worker(config) as two, worker(config) as three:
        tasks = [await publish(coordinator, f"stubborn pid:{tmp_path}/{number} sleep:1000") for number in range(3)]
        pids = [await pid_from(tmp_path / str(number)) for number in range(3)]
        for child in (one, two, three):
            kill_with_supervisors(child)
    for task_id in tasks:
        await coordinator.task(task_id).cancel()
    async with worker(config) as child:
        assert not any(processes_with(f"AGENTBUS_TASK_ID={task_id}") for task_id in tasks)
        assert child.log.read_text(encoding="utf-8").count("of an earlier run") == 3
        for task_id in tasks:
            assert (await settled(coordinator, task_id)).state == "cancelled"
        await acknowledged(coordinator)
    assert len(pids) == 3
    assert not [*(tmp_path / "state").glob("*/code/*/children/*")]


async def test_one_worker_delivers_the_outcomes_of_three_killed_ones(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    config = worker_toml(tmp_path, server.url)
    results = (await coordinator.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await coordinator.bus.store("agent.doc.results", b"filler")
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**results, "max_msgs": 1})
    async with worker(config) as one, worker(config) as two, worker(config) as three:
        tasks = [await publish(coordinator, f"say:{number}") for number in range(3)]
        outboxes = tmp_path / "state"
        await eventually(lambda: len([*outboxes.glob("*/code/*/outbox/*.json")]) == 3, "three outcomes are on disk")
        for task_id in tasks:
            await settled(coordinator, task_id)
        for child in (one, two, three):
            child.kill()
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**results, "max_msgs": -1})
    async with worker(config) as child:
        assert child.log.read_text(encoding="utf-8").count("its outcome from before the restart is delivered") == 3
        await acknowledged(coordinator)
    assert sorted(result["result"] for result in await result_messages(coordinator)) == ["0\n", "1\n", "2\n"]
    assert not [*outboxes.glob("*/code/*/outbox/*.json")]


# -- for its user alone -----------------------------------------------------------------------------------------


async def test_only_the_owner_can_read_the_state_of_a_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = agent_keys(
        worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", "sleep 1000", "agent", "{input_file}"]),
        prompt_via="file",
    )
    results = (await coordinator.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await coordinator.bus.store("agent.doc.results", b"filler")
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**results, "max_msgs": 1})
    async with worker(config):
        first = await publish(coordinator, "secret")
        await eventually(lambda: [*(tmp_path / "state").glob("*/code/0/tmp/*.prompt")], "the prompt is on disk")
        await coordinator.task(first).cancel()
        await eventually(lambda: [*(tmp_path / "state").glob("*/code/0/outbox/*.json")], "the outcome is on disk")
        second = await publish(coordinator, "secret")
        await eventually(lambda: [*(tmp_path / "state").glob("*/code/0/tmp/*.prompt")], "the prompt is on disk")
        found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "state").rglob("*")}
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
        kinds = {path.suffix or path.name for path in found if path.is_file()}
        assert kinds == {".json", ".claims", ".prompt", "lock"}
        assert {path: mode for path, mode in found.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}
        await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**results, "max_msgs": -1})
        await coordinator.task(second).cancel()
        await acknowledged(coordinator)


@pytest.mark.parametrize("where", ["under a file", "a file", "the place is a file"])
async def test_an_unusable_state_folder_is_one_line_that_names_it_and_the_key(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, where: str
):
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    folder = {"under a file": file / "state", "a file": file}.get(where, tmp_path / "state")
    config = worker_toml(tmp_path, server.url, worker={"state_dir": folder})
    if where == "the place is a file":
        async with worker(config):
            pass
        [place] = (tmp_path / "state").glob("*/code")
        place.rename(tmp_path / "moved")
        place.write_text("", encoding="utf-8")
    async with worker(config, ready=False) as child:
        assert await child.exit_code() == 1
        [line] = [line for line in child.log.read_text(encoding="utf-8").splitlines() if "ERROR" in line]
        assert f"stopped: cannot keep state in {folder}" in line
        assert "set state_dir in [worker]" in line
        assert not child.said("Traceback")


async def test_a_relative_state_folder_works_with_working_folders_of_tasks(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    keys = {"state_dir": "here", "workdir": "work"}
    config = worker_toml(
        tmp_path, server.url, chat_cmd=["sh", "-c", 'cat "$1"; pwd', "agent", "{input_file}"], worker=keys
    )
    async with worker(agent_keys(config, prompt_via="file")):
        status = await outcome(coordinator, "hello")
    assert status.state == "completed", status.to_json()
    assert '"content":"hello"' in text(status)
    assert text(status).splitlines()[-1] == str(tmp_path / "work" / status.task_id)
