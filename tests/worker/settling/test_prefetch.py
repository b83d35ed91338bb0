"""Tasks of quick commands are prefetched, and released again if they wait for too long."""

import contextlib
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from agentbus import Coordinator, TaskStatus, connect
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.harness import SUPPORT, Process, eventually, process, processes_with, worker, worker_toml
from support.jobs import acknowledged, error, publish, result_messages, settled, short_lease, text

# Records its run, and an overlap with another run. With `long` in its task it waits for a file.
SCRIPT = """
mkdir {0}/slot || echo overlap
echo "$AGENTBUS_TASK_ID" >> {0}/runs
case "$1" in *long*) touch {0}/long; while [ ! -e {0}/go ]; do sleep 0.02; done;; esac
rmdir {0}/slot
"""


def quick_agent(folder: Path, server: NatsServer, name: str = "one") -> Path:
    (folder / name).mkdir()
    script = SCRIPT.format(folder / name)
    return worker_toml(folder / name, server.url, chat_cmd=["/bin/sh", "-c", script, "sh", "{input}"])


def attempt(status: TaskStatus) -> int:
    assert status.result is not None
    return int(status.result.to_json()["attempt"])


def runs(folder: Path, name: str = "one") -> list[str]:
    path = folder / name / "runs"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


@contextlib.asynccontextmanager
async def prefetching_worker(config: Path, *, keep_s: float = 60) -> AsyncGenerator[Process]:
    """Run a worker that prefetches tasks however slow the machine is, and releases them after `keep_s`."""
    argv = [sys.executable, str(SUPPORT / "prefetching_worker.py"), str(keep_s), "--config", str(config)]
    with process(argv, config.with_suffix(".log")) as child:
        await child.until_said("ready for tasks")
        yield child


async def prefetched_tasks(coordinator: Coordinator, folder: Path, ids: list[str]) -> list[str]:
    """Return the tasks that are claimed and do not run, once a worker is busy with a long one."""
    await eventually((folder / "one" / "long").exists, "the long task runs")

    async def claimed() -> list[str]:
        states = {task_id: (await coordinator.task(task_id).status()).state for task_id in ids}
        return [task_id for task_id in ids if states[task_id] == "working" and task_id not in runs(folder)]

    return await eventually(claimed, "some tasks are prefetched")


async def test_one_slot_runs_one_command_at_a_time_and_each_task_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ids = [await publish(coordinator, "x") for _ in range(60)]
    config = quick_agent(tmp_path, server)
    async with prefetching_worker(config) as child:
        results = [await settled(coordinator, task_id) for task_id in ids]
        await acknowledged(coordinator)
        assert not child.said("released")
    assert runs(tmp_path) == ids, "they are done in the order in which they were published"
    assert {(status.state, attempt(status), text(status)) for status in results} == {("completed", 1, "")}
    assert len(await result_messages(coordinator)) == 60


async def test_while_a_long_command_runs_another_replica_runs_the_prefetched_tasks(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    before = [await publish(coordinator, "x") for _ in range(10)]
    long = await publish(coordinator, "long")
    behind = [await publish(coordinator, "x") for _ in range(10)]
    async with prefetching_worker(quick_agent(tmp_path, server), keep_s=3) as one:
        await eventually((tmp_path / "one" / "long").exists, "the long task runs")
        await one.until_said("released")
        async with worker(quick_agent(tmp_path, server, "two")):
            assert {attempt(await settled(coordinator, task_id)) for task_id in behind} == {1}
            assert (await coordinator.task(long).status()).state == "working"
        (tmp_path / "one" / "go").touch()
        await settled(coordinator, long)
    assert runs(tmp_path) == [*before, long]
    assert sorted(runs(tmp_path, "two")) == sorted(behind)
    assert len(await result_messages(coordinator)) == 21


async def test_a_prefetched_task_that_is_cancelled_does_not_run(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ids = [await publish(coordinator, "long" if number == 10 else "x") for number in range(15)]
    async with prefetching_worker(quick_agent(tmp_path, server)) as child:
        [unwanted, *_] = await prefetched_tasks(coordinator, tmp_path, ids)
        await coordinator.task(unwanted).cancel("changed my mind")
        await child.until_said("a task is to end")
        (tmp_path / "one" / "go").touch()
        states = {task_id: (await settled(coordinator, task_id)).state for task_id in ids}
    assert states == {task_id: "cancelled" if task_id == unwanted else "completed" for task_id in ids}
    assert error(await coordinator.task(unwanted).status()) == "cancelled by agent-main: changed my mind"
    assert unwanted not in runs(tmp_path)


async def test_a_worker_that_stops_releases_its_prefetched_tasks_at_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ids = [await publish(coordinator, "long" if number == 10 else "x") for number in range(15)]
    async with prefetching_worker(quick_agent(tmp_path, server)) as one:
        prefetched = await prefetched_tasks(coordinator, tmp_path, ids)
        one.terminate()
        async with worker(quick_agent(tmp_path, server, "two")):
            assert {attempt(await settled(coordinator, task_id)) for task_id in prefetched} == {1}
            assert (await coordinator.task(ids[10]).status()).state == "working"
            (tmp_path / "one" / "go").touch()
            for task_id in ids:
                await settled(coordinator, task_id)
        assert await one.exit_code() == 0
    assert len(await result_messages(coordinator)) == 15


async def test_prefetched_tasks_of_a_killed_worker_are_taken_over(tmp_path: Path, server: NatsServer):
    async with connect(server.url) as coordinator:
        await set_up(coordinator.bus)
        await short_lease(coordinator)
        ids = [await publish(coordinator, "long" if number == 10 else "x") for number in range(15)]
        async with prefetching_worker(quick_agent(tmp_path, server)) as one:
            prefetched = await prefetched_tasks(coordinator, tmp_path, ids)
            one.kill()
        two = quick_agent(tmp_path, server, "two")
        (tmp_path / "two" / "go").touch()
        async with worker(two):
            assert {attempt(await settled(coordinator, task_id)) for task_id in prefetched} == {2}
            for task_id in ids:
                await settled(coordinator, task_id)
            await acknowledged(coordinator)
        assert len(await result_messages(coordinator)) == 15
        (tmp_path / "one" / "go").touch()  # on Linux its supervisor has ended its command by now, or does so
        await eventually(lambda: not processes_with(f"AGENTBUS_TASK_ID={ids[10]}"), "its command ends")


async def test_a_paused_worker_does_not_run_prefetched_tasks_that_were_taken_over(tmp_path: Path, server: NatsServer):
    async with connect(server.url) as coordinator:
        await set_up(coordinator.bus)
        await short_lease(coordinator)
        ids = [await publish(coordinator, "long" if number == 10 else "x") for number in range(15)]
        async with prefetching_worker(quick_agent(tmp_path, server)) as one:
            prefetched = await prefetched_tasks(coordinator, tmp_path, ids)
            one.popen.send_signal(signal.SIGSTOP)
            two = quick_agent(tmp_path, server, "two")
            (tmp_path / "two" / "go").touch()
            async with worker(two):
                for task_id in ids:
                    await settled(coordinator, task_id)
                one.popen.send_signal(signal.SIGCONT)
                await one.until_said(f"{prefetched[0]}: the lease was lost to another worker")
                await acknowledged(coordinator)
        assert not set(prefetched) & set(runs(tmp_path))
        assert len(await result_messages(coordinator)) == 15
