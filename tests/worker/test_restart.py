"""A worker that starts where another one died: what that one was at work on starts again at once, not after the lease.

The lease is the usual one of 30 seconds in each of these tests; none of them waits for it.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import SUPPORT, Process, eventually, process, worker, worker_toml
from support.jobs import acknowledged, publish, result_messages, short_lease
from support.supervised import kill_with_supervisors

AT_ONCE_S = 10.0
"""How soon a task starts again, counted from the start of the next worker. It takes about one second where the machine
has nothing else to do; the lease is three times as long."""

AGENT = """
task=$AGENTBUS_TASK_ID
for other in {folder}/$task.*.pid; do
    [ -e "$other" ] && grep -qs "^State:.[RSD]" /proc/$(cat "$other")/status && echo $task >> {folder}/overlaps
done
echo $$ > {folder}/$task.$AGENTBUS_ATTEMPT.pid
echo $task $AGENTBUS_ATTEMPT $(date +%s.%N) >> {folder}/runs
case "$1" in
    *first-hangs*) [ $AGENTBUS_ATTEMPT -gt 1 ] || exec sleep 1000 ;;
    *stays*) exec sleep 1000 ;;
esac
echo done
"""


def restarting_worker(folder: Path, server: NatsServer, **keys: Any) -> Path:
    """A worker whose command notes each run, and each that another run of the same task overlaps."""
    command = ["/bin/sh", "-c", AGENT.format(folder=folder), "sh", "{input}"]
    return worker_toml(folder, server.url, chat_cmd=command, worker={"kill_grace_seconds": 0.5, **keys})


def runs(folder: Path) -> list[tuple[str, int, float]]:
    """The runs that were begun: the task, the attempt and the time."""
    noted = folder / "runs"
    lines = noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []
    return [(task, int(attempt), float(at)) for task, attempt, at in (line.split() for line in lines)]


def began(folder: Path, tasks: list[str], attempt: int) -> Callable[[], bool]:
    return lambda: set(tasks) <= {task for task, number, _ in runs(folder) if number == attempt}


def longest_wait_s(folder: Path, tasks: list[str], since: float) -> float:
    """How long after a moment the last of these tasks has begun its second attempt."""
    return max(at for task, attempt, at in runs(folder) if attempt == 2 and task in tasks) - since


async def one_result_each(bus: Coordinator, folder: Path, tasks: list[str]) -> list[dict[str, Any]]:
    waited = await bus.wait(tasks, timeout_s=60)
    assert not waited.pending
    await acknowledged(bus)
    results = await result_messages(bus)
    assert sorted(result["task"]["id"] for result in results) == sorted(tasks)
    assert not (folder / "overlaps").exists(), "a task ran twice at the same time"
    return results


async def worker_dies(config: Path, point: str) -> None:
    """Run a worker until it kills itself at a point of `dying.py`."""
    log = config.with_suffix(f".{os.urandom(3).hex()}.log")
    argv = [sys.executable, str(SUPPORT / "dying.py"), point, "worker", "run", "--config", str(config)]
    with process(argv, log) as child:
        assert await child.exit_code() == -signal.SIGKILL, child.log.read_text(encoding="utf-8")
        assert child.said(f"dies: {point}\n")


@contextlib.asynccontextmanager
async def killed_and_started_again(
    config: Path, ready: Callable[[], object], kill: Callable[[Process], None] = Process.kill
) -> AsyncGenerator[tuple[Process, float]]:
    """A worker in the place of one that was killed when it was `ready`; gives it and the time of its start."""
    async with worker(config) as first:
        await eventually(ready, "the first worker is at work")
        kill(first)
    started_at = time.time()
    async with worker(config) as second:
        yield second, started_at


@dataclass(frozen=True)
class Case:
    """Workers that die one after the other, each at its point; the next one is ordinary."""

    deaths: tuple[str, ...]
    attempt: int = 2

    def __str__(self) -> str:
        return " then ".join(self.deaths)


CASES = [
    Case(("claimed",)),
    Case(("claimed, without a slot",)),
    Case(("slot granted",)),
    Case(("command about to start",)),
    Case(("command started, not recorded",)),
    Case(("command recorded",)),
    Case(("lease renewed, delivery not extended",)),
    Case(("command ended",)),
    Case(("outcome about to be written",)),
    Case(("outcome on disk, not committed",), attempt=1),
    Case(("committed, answer not seen",), attempt=1),
    Case(("committed, not published",), attempt=1),
    Case(("published, not acknowledged",), attempt=1),
    Case(("command ended", "left claim about to be freed")),
    Case(("command ended", "left claim freed, answer not seen")),
    Case(("command ended", "left claim freed, delivery not returned")),
    Case(("command ended", "left claim freed, still on record")),
    Case(("command ended", "claimed"), attempt=3),
    Case(("committed, not published", "left claim freed, delivery not returned"), attempt=1),
    Case(("outcome on disk, not committed", "replay committed, not published"), attempt=1),
]


@pytest.mark.gate("slot granted", "committed, answer", "freed, answer", "ended then left claim freed, delivery")
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_wherever_a_worker_dies_the_next_one_here_completes_its_task_at_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, case: Case
):
    lasts = {"command recorded", "lease renewed, delivery not extended"} & {*case.deaths}
    if "lease renewed, delivery not extended" in case.deaths:
        await short_lease(coordinator, lease_s=3)  # else the first renewal would be in ten seconds
    config = restarting_worker(tmp_path, server, retry_on=["lost"], max_attempts=4)
    task = await publish(coordinator, "first-hangs" if lasts else "quick")
    for point in case.deaths:
        await worker_dies(config, point)
    async with worker(config):
        started_at = time.monotonic()
        await coordinator.wait([task], timeout_s=AT_ONCE_S)
        [result] = await one_result_each(coordinator, tmp_path, [task])
        took_s = time.monotonic() - started_at
    print(f"acknowledged {took_s:.2f} s after the next worker was ready")
    assert took_s < AT_ONCE_S
    assert (result["status"], result["result"], result["attempt"]) == ("completed", "done\n", case.attempt)
    assert not [*(tmp_path / "state").glob("*/code/*/claims/*")]


@pytest.mark.parametrize("kill", [Process.kill, kill_with_supervisors], ids=["alone", "with its supervisors"])
async def test_the_tasks_of_a_killed_worker_start_again_at_once_and_none_twice(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, kill: Callable[[Process], None]
):
    config = restarting_worker(tmp_path, server, concurrency=4)
    tasks = [await publish(coordinator, "first-hangs") for _ in range(4)]
    waiting = [await publish(coordinator, "quick") for _ in range(20)]
    async with killed_and_started_again(config, began(tmp_path, tasks, 1), kill) as (_, started_at):
        await eventually(began(tmp_path, tasks, 2), "all run again", timeout_s=AT_ONCE_S)
        took_s = longest_wait_s(tmp_path, tasks, started_at)
        print(f"the last of four tasks began again {took_s:.2f} s after the start of the next worker")
        results = await one_result_each(coordinator, tmp_path, tasks + waiting)
    assert took_s < AT_ONCE_S
    attempts = {result["task"]["id"]: result["attempt"] for result in results}
    assert {task: attempts[task] for task in tasks} == dict.fromkeys(tasks, 2)
    assert not [*(tmp_path / "state").glob("*/code/*/claims/*")]
