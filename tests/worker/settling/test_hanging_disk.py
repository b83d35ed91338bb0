"""A state folder on a disk that stands still holds up neither the worker, nor other tasks, nor its end."""

import contextlib
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import ensure_files_bucket
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.disk import threads
from support.harness import SUPPORT, Process, eventually, process, worker_toml
from support.jobs import acknowledged, agent_keys, outcome, publish, result_messages, settled, short_lease, text
from support.slow_ledger import slow_ledger

ANSWER_S = threads.ANSWER_S


class Disk:
    """The disk of a worker, which can stand still."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.flag = folder / "hangs"

    def hang(self) -> None:
        self.flag.touch()

    def answer(self) -> None:
        self.flag.unlink(missing_ok=True)

    def files(self, pattern: str) -> list[Path]:
        return [*self.state.glob(f"*/code/*/{pattern}")]


@contextlib.asynccontextmanager
async def hanging_worker(config: Path, *, ready: bool = True) -> AsyncGenerator[tuple[Process, Disk]]:
    folder = config.parent
    its = Disk(folder)
    argv = [sys.executable, str(SUPPORT / "hanging_disk.py"), str(its.flag), str(its.state)]
    with process([*argv, "worker", "run", "--config", str(config)], folder / "worker.log") as child:
        try:
            if ready:
                await child.until_said("ready for tasks")
            yield child, its
        finally:
            its.answer()


async def ends_in_time(child: Process, limit_s: float) -> None:
    began = time.monotonic()
    child.terminate()
    assert await child.exit_code() == 0
    assert time.monotonic() - began < limit_s


async def test_while_the_disk_stands_still_tasks_run_keep_their_leases_and_have_their_results(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1.5)
    async with (
        slow_ledger(server.url) as link,
        hanging_worker(worker_toml(tmp_path, link.url, worker={"concurrency": 2})) as (child, its),
    ):
        its.hang()
        link.delay_s = 0.1  # so slow that a copy of each outcome is wanted
        statuses = [await outcome(coordinator, f"sleep:{length} say:done") for length in (3, 0.1)]
        await acknowledged(coordinator)
        assert [(text(one), one.record.entry.attempt) for one in statuses] == [("done\n", 1)] * 2
        assert its.files("outbox/*") == its.files("children/*-*") == []
        its.answer()
        last = await outcome(coordinator, "sleep:0.1 say:last")
        assert text(last) == "last\n"
        await acknowledged(coordinator)
        await ends_in_time(child, 5)
    assert its.files("outbox/*") == its.files("children/*") == [], "all that was written late is taken back"
    assert len(await result_messages(coordinator)) == 3


async def test_a_worker_ends_though_its_disk_stands_still(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with hanging_worker(worker_toml(tmp_path, server.url)) as (child, its):
        its.hang()
        assert text(await outcome(coordinator, "sleep:0.1 say:done")) == "done\n"
        await ends_in_time(child, 8)
        assert child.said("a disk does not answer")


async def test_a_start_on_a_disk_that_stands_still_can_be_stopped(tmp_path: Path, server: NatsServer):
    its = Disk(tmp_path)
    its.hang()
    async with hanging_worker(worker_toml(tmp_path, server.url), ready=False) as (child, _):
        await child.until_said("worker ")
        await ends_in_time(child, 3)
        assert child.said("stopped before it had a state folder")


@pytest.mark.long
async def test_a_prompt_that_the_disk_does_not_take_goes_back_unrun_and_runs_once_the_disk_answers(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    command = ["sh", "-c", "echo ran", "sh", "{input_file}"]
    config = agent_keys(worker_toml(tmp_path, server.url, chat_cmd=command), prompt_via="file")
    async with hanging_worker(config) as (child, its):
        its.hang()
        task_id = await publish(coordinator, "x")
        await child.until_said("paused (not_started): the prompt cannot be written", timeout_s=ANSWER_S + 30)
        entry = (await coordinator.task(task_id).status()).record.entry
        assert (entry.result, entry.setbacks is not None) == (None, True)
        its.answer()
        status = await settled(coordinator, task_id)
        assert (text(status), status.record.entry.attempt) == ("ran\n", 1)
        await acknowledged(coordinator)
        await eventually(lambda: not its.files("tmp/*"), "no prompt is left")


@pytest.mark.gate("is slow")
@pytest.mark.parametrize("how", ["stands still", "is slow"])
async def test_long_output_is_kept_without_its_file_if_the_disk_stands_still_and_with_it_if_it_is_slow(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, how: str
):
    await ensure_files_bucket(coordinator.bus, "code")
    command = ["sh", "-c", "head -c 9000000 /dev/zero | tr '\\0' x", "sh", "{input}"]
    keys: dict[str, Any] = {"inline_output_bytes": 2000, "task_timeout_seconds": 60}
    async with hanging_worker(worker_toml(tmp_path, server.url, chat_cmd=command, worker=keys)) as (child, its):
        its.hang()
        task_id = await publish(coordinator, "x")
        if how == "is slow":
            await child.until_said(f"task {task_id}: started")
            its.answer()
        status = await settled(coordinator, task_id)
        assert status.state == "completed"
        assert (status.output_note["bytes"], "file" in status.output_note) == (9_000_000, how == "is slow")
        its.answer()
        await acknowledged(coordinator)
        await eventually(lambda: not its.files("tmp/*"), "no file is left")
        assert child.popen.poll() is None
