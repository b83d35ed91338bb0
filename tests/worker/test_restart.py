"""A worker that starts where another one died: what that one was at work on starts again at once, not after the lease.

The lease is the usual one of 30 seconds in each of these tests; none of them waits for it.
"""

import contextlib
import json
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
from agentbus.bus.pull_consumer import return_to_server
from agentbus.config.loading import load_worker
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import NoEntry, Record, lease_ended
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus_worker.claim_records import SLOT_BYTES, left_claims
from agentbus_worker.identity import Place
from agentbus_worker.predecessors import Predecessors
from agentbus_worker.running.orphans import Orphans
from agentbus_worker.settling.outbox import Outbox
from support.harness import SUPPORT, Process, eventually, process, processes_with, worker, worker_toml
from support.jobs import acknowledged, error, pid_from, publish, result_messages, short_lease
from support.supervised import kill_with_supervisors
from support.unkillable import AS_ANOTHER, UID, WITHOUT_KILL, end, needs_root

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere it cannot be known that no process is left, and the lease decides"
)

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


@pytest.mark.gate("committed, answer", "freed, answer")
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


@pytest.mark.gate("with its supervisors")
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


def is_of(pid: int, user: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}").stat().st_uid == user
    return False


def records(folder: Path) -> list[Path]:
    """The files in which workers record what they have taken."""
    return sorted((folder / "state").glob("*/code/*/claims/*"))


def in_another_place(folder: Path, **place: str) -> None:
    """Change where the worker ran that has left its records."""
    [path] = records(folder)
    head, rest = path.read_bytes()[:SLOT_BYTES], path.read_bytes()[SLOT_BYTES:]
    fields = {**json.loads(head.partition(b"\n")[0]), **place}
    path.write_bytes((json.dumps(fields).encode() + b"\n").ljust(SLOT_BYTES, b"\0") + rest)


@contextlib.asynccontextmanager
async def dead_worker(folder: Path, config: Path, bus: Coordinator, what: str = "first-hangs") -> AsyncGenerator[str]:
    """One task whose worker was killed while it ran it, and all of whose processes have ended; gives its id."""
    async with worker(config) as first:
        task = await publish(bus, what)
        await eventually(began(folder, [task], 1), "the command runs")
        first.kill()
    await eventually(lambda: not processes_with(f"AGENTBUS_TASK_ID={task}"), "its supervisor ends the command")
    yield task


async def test_tasks_that_a_stopped_service_has_released_start_again_at_once_and_do_not_count(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = restarting_worker(tmp_path, server, concurrency=4, drain_timeout_seconds=0.1)
    tasks = [await publish(coordinator, "stays") for _ in range(4)]
    async with worker(config) as first:
        await eventually(began(tmp_path, tasks, 1), "the first worker is at work")
        first.terminate()
        assert await first.exit_code() == 0
    assert records(tmp_path) == []
    started_at = time.time()
    async with worker(config):
        await eventually(lambda: len(runs(tmp_path)) == 8, "all run again", timeout_s=AT_ONCE_S)
        took_s = max(at for _, _, at in runs(tmp_path)) - started_at
        print(f"the last of four tasks began again {took_s:.2f} s after the start of the next worker")
        assert {attempt for _, attempt, _ in runs(tmp_path)} == {1}
        for task in tasks:
            await coordinator.task(task).cancel()
        await one_result_each(coordinator, tmp_path, tasks)


async def test_a_task_of_a_worker_of_another_machine_is_left_to_its_lease(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = restarting_worker(tmp_path, server)
    async with dead_worker(tmp_path, config, coordinator) as task:
        in_another_place(tmp_path, machine="another", boot="another")
        before = (await coordinator.task(task).status()).record
        async with worker(config) as second:
            assert second.said("1 tasks of a worker of another machine are left to their leases")
            assert len(records(tmp_path)) == 1  # its own
        assert (await coordinator.task(task).status()).record.revision == before.revision


async def test_what_was_under_way_when_the_machine_went_down_starts_again_at_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    if not Place.here().machine:
        pytest.skip("this machine has no id")
    config = restarting_worker(tmp_path, server)
    async with dead_worker(tmp_path, config, coordinator) as task:
        in_another_place(tmp_path, boot="an earlier one", processes="pid:[1]")
        async with worker(config):
            await eventually(began(tmp_path, [task], 2), "it runs again", timeout_s=AT_ONCE_S)
            await one_result_each(coordinator, tmp_path, [task])


@pytest.mark.gate("no reason")
@pytest.mark.parametrize(
    ("keys", "cancel", "state", "reason"),
    [
        ({"max_attempts": 1}, False, "failed", "attempts exhausted (1): the worker was lost while it ran the task"),
        (
            {"retry_on": []},
            False,
            "failed",
            "the worker was lost while it ran the task (attempt 1), which is no reason to try again",
        ),
        ({}, True, "cancelled", "cancelled by agent-main"),
    ],
    ids=["the last attempt", "lost is no reason to try again", "cancelled meanwhile"],
)
async def test_a_task_of_a_killed_worker_that_must_not_run_again_is_settled_at_once_as_after_a_lease(
    tmp_path: Path,
    server: NatsServer,
    coordinator: Coordinator,
    keys: dict[str, Any],
    cancel: bool,
    state: str,
    reason: str,
):
    config = restarting_worker(tmp_path, server, **keys)
    async with dead_worker(tmp_path, config, coordinator) as task:
        if cancel:
            await coordinator.task(task).cancel()
        async with worker(config):
            waited = await coordinator.wait([task], timeout_s=AT_ONCE_S)
            assert (waited.settled[task].state, error(waited.settled[task])) == (state, reason)
            await one_result_each(coordinator, tmp_path, [task])
    assert len(runs(tmp_path)) == 1


@needs_root
async def test_a_task_of_which_a_process_cannot_be_ended_is_kept_until_that_has_ended_after_all(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran, me = tmp_path / "ran", tmp_path / "me.pid"
    script = f"echo >> {ran}; [ $(wc -l < {ran}) = 1 ] || exit 0; echo $$ > {me}; exec {AS_ANOTHER} sleep 600"
    config = worker_toml(
        tmp_path, server.url, chat_cmd=["sh", "-c", script, "sh", "{input}"], worker={"kill_grace_seconds": 0.2}
    )
    pid = 0
    try:
        async with worker(config, prefix=WITHOUT_KILL) as first:
            task = await publish(coordinator, "x")
            pid = await pid_from(me)
            await eventually(lambda: is_of(pid, UID), "it runs as another user")
            kill_with_supervisors(first)
        held = (await coordinator.task(task).status()).record
        async with worker(config, prefix=WITHOUT_KILL) as second:
            assert second.said("its command has outlived its worker and does not end")
            assert not second.said("handed back")
            assert (await coordinator.task(task).status()).record.revision == held.revision
            end([pid])
            await second.until_said("handed back", timeout_s=AT_ONCE_S)
            waited = await coordinator.wait([task], timeout_s=AT_ONCE_S)
            assert (waited.settled[task].state, waited.settled[task].record.entry.attempt) == ("completed", 2)
            await acknowledged(coordinator)
    finally:
        end([pid] if pid else [])
    assert len(ran.read_text(encoding="utf-8")) == 2


async def test_a_delivery_that_a_dead_worker_returns_too_late_makes_no_second_run(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    """What could happen if the message came to another worker between the look at the ledger and the return."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    config = restarting_worker(tmp_path / "one", server)
    async with dead_worker(tmp_path / "one", config, coordinator, "stays") as task:
        [left] = left_claims(records(tmp_path / "one")[0].parent)
        [claim] = left.claims
        ledger = Ledger(coordinator.bus)
        held = await ledger.read(claim.key)
        assert isinstance(held, Record)
        await ledger.write(claim.key, lease_ended(held.entry, "new"), revision=held.revision)
        await return_to_server(coordinator.bus, claim.reply)
        async with worker(restarting_worker(tmp_path / "two", server)) as other:
            await eventually(began(tmp_path / "two", [task], 2), "a worker of another machine takes it over")
            async with worker(restarting_worker(tmp_path / "three", server)):
                for _ in range(3):
                    before = await redelivered(coordinator)
                    await return_to_server(coordinator.bus, claim.reply)
                    await eventually(lambda before=before: more_than(coordinator, before), "it is delivered once more")
            async with worker(config) as late:  # its record is still there
                assert not late.said("handed back")
            assert (len(runs(tmp_path / "two")), runs(tmp_path / "three")) == (1, [])
            assert not other.said("lease was lost")
            await coordinator.task(task).cancel()
            results = await one_result_each(coordinator, tmp_path / "two", [task])
    assert [result["attempt"] for result in results] == [2]
    assert len(runs(tmp_path / "one")) == 1


async def redelivered(bus: Coordinator) -> int:
    """The number of deliveries by the consumer of the agent so far."""
    info = await bus.bus.api(f"CONSUMER.INFO.{subjects.TASKS_STREAM}.{subjects.durable('code')}")
    return int(info["delivered"]["consumer_seq"])


async def more_than(bus: Coordinator, before: int) -> bool:
    return await redelivered(bus) > before


async def hand_back(folder: Path, config: Path, bus: Coordinator) -> None:
    """Hand back in this process what a dead worker was at work on."""
    [path] = records(folder)
    left = Predecessors(path.parent)
    left.ended(Orphans({}))
    outbox = Outbox(path.parent.parent / "outbox")
    await left.hand_back(bus.bus, load_worker(config)[0], outbox)


async def test_a_request_to_cancel_that_comes_while_a_task_is_handed_back_is_kept(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    config = restarting_worker(tmp_path, server)
    async with dead_worker(tmp_path, config, coordinator) as task:
        real = Ledger.read

        async def read(ledger: Ledger, key: TaskKey) -> Record | NoEntry:
            found = await real(ledger, key)
            monkeypatch.undo()
            await coordinator.task(task).cancel("too slow")
            return found

        monkeypatch.setattr(Ledger, "read", read)
        await hand_back(tmp_path, config, coordinator)
        entry = (await coordinator.task(task).status()).record.entry
        assert entry.claim is not None
        assert (entry.state, entry.claim.lease_s, entry.cancel is not None) == ("working", 0, True)
        assert records(tmp_path) == []
        async with worker(config):
            waited = await coordinator.wait([task], timeout_s=AT_ONCE_S)
            assert error(waited.settled[task]) == "cancelled by agent-main: too slow"
            await one_result_each(coordinator, tmp_path, [task])


@pytest.mark.long
async def test_an_entry_that_cannot_be_read_is_left_to_the_lease(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = restarting_worker(tmp_path, server)
    async with dead_worker(tmp_path, config, coordinator) as task:
        await coordinator.bus.store(subjects.state(TaskKey("code", task)), b"no entry")
        async with worker(config) as second:
            assert second.said(f"task {task}: its worker has died, and it could not be handed back")


async def test_what_the_records_say_of_another_agent_or_consumer_is_passed_over(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = restarting_worker(tmp_path, server)
    async with dead_worker(tmp_path, config, coordinator) as task:
        [path] = records(tmp_path)
        data = path.read_bytes()
        held = (await coordinator.task(task).status()).record.revision
        for odd in (data.replace(b".agent-code.", b".agent-test."), data.replace(b'"code"', b'"test"')):
            assert odd != data
            path.write_bytes(odd)
            await hand_back(tmp_path, config, coordinator)
            assert records(tmp_path) == []
        assert (await coordinator.task(task).status()).record.revision == held
