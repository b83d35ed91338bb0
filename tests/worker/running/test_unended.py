"""Commands that cannot be ended: the worker says so in time, waits for none of them, and goes on with the rest."""

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, TaskStatus
from agentbus.bus.topology import consumer_config
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.running.supervising.supervisor import Tree
from agentbus_worker.running.unended import unended_of
from support.harness import BOUND_S, eventually, worker, worker_toml
from support.jobs import error, outcome, pid_from, pid_in, publish, settled, short_lease
from support.unkillable import AS_ANOTHER, UID, WITHOUT_KILL, end, freezer, needs_root

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the right to signal is taken away by Linux's means")

IN_TIME_S = 10.0
"""Much more than the limits in these tests together, and much less than the commands would take."""

RUN = """
import asyncio, json, os, signal, sys, time
from pathlib import Path
from agentbus_worker.running.command import Limits, running
from agentbus_worker.running.process_tree import Children
from agentbus_worker.running.spawn import Command

async def ticks(longest):
    last = time.monotonic()
    while True:
        await asyncio.sleep(0.01)
        longest[0], last = max(longest[0], time.monotonic() - last), time.monotonic()

async def main():
    slots, script, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    loop, gone, longest, stopped_at = asyncio.get_running_loop(), asyncio.Event(), [0.0], [0.0]
    stop = loop.create_future()

    def end():
        stopped_at[0] = loop.time()
        stop.set_result(None)

    loop.add_signal_handler(signal.SIGUSR1, end)
    ticking = asyncio.create_task(ticks(longest))
    with Children(folder, slots=slots) as children:
        command = Command(["sh", "-c", script], dict(os.environ), children.new_run_id())
        async with running(command, Limits(60, 0.1, 1000), children, folder) as child:
            child.on_gone(gone.set)
            ended = await child.ended(stop, children)
        took_s = loop.time() - stopped_at[0]
        print(json.dumps([ended.reason, ended.code, ended.unended, took_s, longest[0]]), flush=True)
        while not gone.is_set() and ended.unended:
            await asyncio.sleep(0.05)
            children.patrol()
        await children.close()
    ticking.cancel()
    print("gone", [path.name for path in folder.iterdir()], flush=True)

asyncio.run(main())
"""


async def run(slots: int, script: str, folder: Path) -> asyncio.subprocess.Process:
    """Run a command in a process that may not signal other users, until SIGUSR1, with a grace of 0.1 s."""
    arguments = [*WITHOUT_KILL, sys.executable, "-c", RUN, str(slots), script, str(folder)]
    return await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)


async def line_of(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    async with asyncio.timeout(BOUND_S):
        return (await child.stdout.readline()).decode()


def is_of_another_user(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}").stat().st_uid == UID
    return False


def of_another_user(pid: int, count: int) -> list[int]:
    """The processes below `pid` that run as the other user, once there are so many."""
    found = [one for one in Tree(set(), pid).pids() if is_of_another_user(one)]
    return found if len(found) == count else []


@needs_root
@pytest.mark.gate("itself-supervised", "its child-process group")
@pytest.mark.parametrize("slots", [1, 0], ids=["supervised", "process group"])
@pytest.mark.parametrize(
    ("script", "count"),
    [
        (f"exec {AS_ANOTHER} sleep 600", 1),
        (f"{AS_ANOTHER} sleep 600; true", 1),
        (f"trap '' TERM; {AS_ANOTHER} sh -c 'sleep 600 & wait'; true", 2),
    ],
    ids=["itself", "its child", "its grandchild"],
)
async def test_a_command_of_another_user_is_given_up_a_second_after_sigkill_and_looked_after_until_it_ends(
    tmp_path: Path, slots: int, script: str, count: int
):
    child = await run(slots, script, tmp_path)
    pids: list[int] = []
    try:
        pids = await eventually(lambda: of_another_user(child.pid, count), "the other user's processes run")
        child.send_signal(signal.SIGUSR1)
        reason, code, unended, took_s, blocked_s = json.loads(await line_of(child))
        assert (reason, code, unended) == ("stopped", None, [pids, f"runs as another user ({UID})"])
        assert 1.0 < took_s < IN_TIME_S
        assert blocked_s < 1.0, "the event loop was blocked"
        end(pids)
        assert await line_of(child) == "gone []\n"
        assert await child.wait() == 0
    finally:
        end(pids)
        if child.returncode is None:
            child.kill()
            await child.wait()


@needs_root
@pytest.mark.gate("supervised")
@pytest.mark.parametrize("slots", [1, 0], ids=["supervised", "process group"])
async def test_a_frozen_command_is_given_up_and_ends_once_it_is_thawed(tmp_path: Path, slots: int):
    with freezer(f"{tmp_path.name}-{slots}") as group:
        child = await run(slots, f"echo $$ > {group}/cgroup.procs; sleep 600", tmp_path)
        await eventually((group / "cgroup.procs").read_text, "the command is in the cgroup")
        (group / "freezer.state").write_text("FROZEN", encoding="utf-8")
        state = group / "freezer.state"
        await eventually(lambda: state.read_text(encoding="utf-8") == "FROZEN\n", "the command is frozen")
        child.send_signal(signal.SIGUSR1)
        reason, code, (pids, why), _, _ = json.loads(await line_of(child))
        assert (reason, code, bool(pids)) == ("stopped", None, True)
        assert why.startswith("hangs in the system")
        state.write_text("THAWED", encoding="utf-8")
        assert await line_of(child) == "gone []\n", "SIGKILL was waiting for it"
        assert await child.wait() == 0


async def test_a_process_that_a_signal_can_end_is_not_taken_for_one_that_does_not_end():
    child = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        assert unended_of([child.pid]) is None
    finally:
        child.kill()
        await child.wait()
    assert unended_of([child.pid]) is None


# -- the whole worker -------------------------------------------------------------------------------------------

STAYS = f"""case "$1" in
*stay*) echo $$ > "$AGENTBUS_WORKDIR/pid"; exec {AS_ANOTHER} sleep 600;;
*leave*) {AS_ANOTHER} sleep 600 & echo $! > "$AGENTBUS_WORKDIR/pid"
         while [ "$(stat -c %u /proc/$!)" != {UID} ]; do sleep 0.01; done; exit 3;;
*) echo done;;
esac"""


def failure_of(status: TaskStatus) -> tuple[str, str]:
    assert status.failure is not None, status.to_json()
    return status.state, status.failure.code


@needs_root
async def test_a_task_whose_command_cannot_be_ended_fails_in_time_and_its_slot_is_lost_until_it_ends(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    limits: dict[str, Any] = {
        "task_timeout_seconds": 600, "kill_grace_seconds": 0.1, "drain_timeout_seconds": 0.2, "concurrency": 2,
        "retry_on": ["exit:3"], "retry_backoff_seconds": 0, "workdir": tmp_path / "work",
    }  # fmt: skip
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", STAYS, "sh", "{input}"], worker=limits)
    pids: list[int] = []

    async def started(content: str) -> str:
        task_id = await publish(coordinator, content)
        pids.append(await pid_from(tmp_path / "work" / task_id / "pid"))
        await eventually(lambda: is_of_another_user(pids[-1]), "it runs as another user")
        return task_id

    async def lost() -> list[tuple[int, int]]:
        return [(one.lost, one.free) for one in await coordinator.agents("code")]

    try:
        async with worker(config, prefix=WITHOUT_KILL) as child:
            cancelled = await started("stay")
            await coordinator.task(cancelled).cancel("not needed")
            ends = [await settled(coordinator, task_id) for task_id in (cancelled, await started("leave"))]
            assert [failure_of(status) for status in ends] == [("failed", "not_ended")] * 2
            assert [status.record.entry.attempt for status in ends] == [1, 1], "none was tried again"
            why = f"and the command could not be ended: it runs as another user ({UID})"
            assert error(ends[0]) == f"cancelled by agent-main: not needed, {why}"
            assert error(ends[1]) == "the command exited with status 3"
            for pid in pids:
                await child.until_said(f"pids={pid}")

            async def one_is_lost() -> bool:
                return await lost() == [(1, 1)]

            await eventually(one_is_lost, "the lost slot is seen by others")
            assert (await outcome(coordinator, "quick")).state == "completed", "the worker goes on"
            end(pids[:1])
            await child.until_said("its slot is free again")
            stopped = await started("stay")
            child.terminate()
            assert await child.exit_code(timeout_s=IN_TIME_S) == 0
        status = await settled(coordinator, stopped)
        assert failure_of(status) == ("failed", "not_ended")
        assert error(status) == f"the worker was stopped, {why}"
    finally:
        end(pids)


@needs_root
@pytest.mark.long
async def test_a_command_that_has_outlived_its_killed_worker_is_named_by_the_next_one_and_its_task_not_run_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    limits = {"kill_grace_seconds": 0.1, "workdir": tmp_path / "work"}
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", STAYS, "sh", "{input}"], worker=limits)
    async with worker(config, prefix=WITHOUT_KILL) as first:
        task_id = await publish(coordinator, "stay")
        pid = await pid_from(tmp_path / "work" / task_id / "pid")
        try:
            await eventually(lambda: is_of_another_user(pid), "it runs as another user")
            await eventually(lambda: [*tmp_path.glob("state/*/code/0/children/*-*.json")], "it is on record")
            first.kill()
            for _ in range(2):  # and by the one after it
                async with worker(config, prefix=WITHOUT_KILL) as second:
                    assert second.said(f"does not end: it runs as another user ({UID}) pids={pid}")
                    status = await settled(coordinator, task_id)
                    assert failure_of(status) == ("failed", "not_ended")
                    assert error(status).startswith("the worker was lost while it ran the task, and the command could")
            assert pid_in(tmp_path / "work" / task_id / "pid") == pid, "it was run again"
        finally:
            end([pid])


TWICE = f"""case "$1" in
*stay*) echo $$ > "$AGENTBUS_WORKDIR/pid"; exec {AS_ANOTHER} sleep 600;;
*) [ -e "$AGENTBUS_WORKDIR/../again" ] && exec echo done; touch "$AGENTBUS_WORKDIR/../again"; exec sleep 600;;
esac"""


@needs_root
@pytest.mark.long
async def test_a_task_of_another_owner_with_the_id_of_a_command_that_has_outlived_its_worker_is_run_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    name = subjects.durable_of_parties("code")
    config = consumer_config("code", name, of_parties=True, ack_wait_s=1.5)
    await coordinator.bus.create_consumer(subjects.TASKS_STREAM, name, config)
    await short_lease(coordinator)
    limits: dict[str, Any] = {"kill_grace_seconds": 0.1, "workdir": tmp_path / "work", "concurrency": 2}
    path = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", TWICE, "sh", "{input}"], worker=limits)
    alice = Coordinator(coordinator.bus, "alice")
    async with worker(path, prefix=WITHOUT_KILL) as first:
        await publish(coordinator, "stay", task_id="job")
        hers = await alice.publish("code", "work", task_id="job")
        pid = await pid_from(tmp_path / "work" / "job" / "pid")
        try:
            await eventually(lambda: is_of_another_user(pid), "it runs as another user")
            await eventually((tmp_path / "work" / "again").exists, "hers runs, too")
            await eventually(lambda: len([*tmp_path.glob("state/*/code/0/children/*-*.json")]) == 2, "both on record")
            first.kill()
            async with worker(path, prefix=WITHOUT_KILL):
                mine = coordinator.task("job", agent="code", owner="main")
                assert (await mine.result(timeout_s=BOUND_S)).status == "failed"
                assert failure_of(await mine.status()) == ("failed", "not_ended")
                assert (await hers.result(timeout_s=BOUND_S)).result == "done\n"
        finally:
            end([pid])
