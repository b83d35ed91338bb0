"""A worker whose event loop hangs is noticed: by systemd, and by whoever asks `/healthz`. The test is the systemd."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.observability.metrics_endpoint import exposed, new_registry
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.watchdog import ENVIRONMENT, STANDSTILL_S, Watchdog, watched
from support.harness import BOUND_S, SUPPORT, Process, eventually, process, worker, worker_toml
from support.jobs import gone, outcome, pid_from, publish, result_messages, settled, short_lease, text
from support.scraping import get

WATCHDOG_S = 1.0
NOWHERE = "nats://127.0.0.1:1"


class Manager:
    """The part of systemd that a service of the type notify speaks to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self.last_beat = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def environment(self, timeout_s: float = WATCHDOG_S) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(timeout_s * 1_000_000))}

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            told = (await loop.sock_recv(self._socket, 65_536)).decode()
            self.last_beat = loop.time() if told == "WATCHDOG=1" else self.last_beat
            self.told.append(told)

    async def until_told(self, text: str) -> None:
        await eventually(lambda: any(text in told for told in self.told), f"systemd is told {text!r}: {self.told}")

    async def until_late(self, timeout_s: float = WATCHDOG_S) -> None:
        loop = asyncio.get_running_loop()
        await eventually(lambda: loop.time() - self.last_beat > timeout_s, "no beat comes in time")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncGenerator[Manager]:
    made = Manager(tmp_path / "notify")
    listening = asyncio.create_task(made.listen())
    yield made
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    made.close()


def test_the_units_wait_as_long_as_the_worker_says_that_it_hangs():
    units = Path(__file__).parents[2] / "deploy" / "systemd"
    for unit in (units / "agentbus-worker.service", units / "user" / "agentbus-worker.service"):
        lines = unit.read_text(encoding="utf-8").splitlines()
        assert {"Type=notify", "NotifyAccess=main", f"WatchdogSec={STANDSTILL_S:g}"} <= set(lines)


async def test_a_worker_is_ready_without_a_bus_and_beats_until_it_ends(tmp_path: Path, manager: Manager):
    config = worker_toml(tmp_path, NOWHERE)
    async with worker(config, ready=False, env=manager.environment()) as child:
        await manager.until_told("READY=1\nSTATUS=connecting to the bus")
        before = len(manager.told)
        await eventually(lambda: manager.told[before:].count("WATCHDOG=1") >= 3, "it beats")
        child.terminate()
        assert await child.exit_code() == 0


async def test_what_the_worker_does_is_its_status_and_its_commands_cannot_speak_for_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, manager: Manager
):
    pid_file, gate = tmp_path / "pid", tmp_path / "gate"
    config = worker_toml(tmp_path, server.url, worker={"concurrency": 2})
    async with worker(config, env=manager.environment()) as child:
        await manager.until_told("STATUS=takes tasks: 0 of 2 slots in use")
        names = " ".join(f"env:{name}" for name in ENVIRONMENT)
        assert text(await outcome(coordinator, names)).split() == []
        task_id = await publish(coordinator, f"pid:{pid_file} wait:{gate} say:done")
        await pid_from(pid_file)
        await manager.until_told("STATUS=takes tasks: 1 of 2 slots in use")
        child.terminate()
        await manager.until_told("STOPPING=1\nSTATUS=stopping: 1 tasks running")
        gate.touch()
        await settled(coordinator, task_id)
        assert await child.exit_code() == 0


@contextlib.asynccontextmanager
async def hanging(config: Path, manager: Manager) -> AsyncGenerator[Process]:
    argv = [sys.executable, str(SUPPORT / "hanging_worker.py"), "--config", str(config)]
    log = config.with_suffix(".hanging.log")
    with process(argv, log, env={**os.environ, **manager.environment(), "PYTHONPATH": str(SUPPORT.parent)}) as child:
        await child.until_said("ready for tasks")
        yield child


async def test_a_worker_that_hangs_is_ended_by_its_manager_and_the_next_one_does_its_tasks_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, manager: Manager
):
    await short_lease(coordinator)
    runs, pid_file = tmp_path / "runs", tmp_path / "pid"
    config = worker_toml(tmp_path, server.url, worker={"concurrency": 2, "kill_grace_seconds": 0.5})
    async with hanging(config, manager) as child:
        done = await outcome(coordinator, "say:done")
        running = await publish(coordinator, f"pid:{pid_file} say:late sleep:1")
        pid = await pid_from(pid_file)
        hung = await publish(coordinator, f"touch:{runs} say:block_the_loop")
        await manager.until_late()
        os.kill(child.pid, signal.SIGABRT)  # WatchdogSignal= by default
        assert await child.exit_code() == -signal.SIGABRT
        assert child.said("hanging_worker.py"), "the stacks of its threads tell where it has hung"
        await gone(pid)
    async with worker(config, env=manager.environment()):
        assert [(await settled(coordinator, task_id)).state for task_id in (running, hung)] == ["completed"] * 2
    results = [message["task"]["id"] for message in await result_messages(coordinator)]
    assert sorted(results) == sorted([done.task_id, running, hung]), "each task has one result"


async def test_healthz_tells_of_an_event_loop_that_stands_still_from_a_thread_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("agentbus_worker.watchdog._BEAT_S", BOUND_S)  # it is late for any limit below this
    watchdog = Watchdog()
    with exposed(new_registry(), 0, watchdog.why_unhealthy) as url:
        health = url.replace("/metrics", "/healthz")
        async with watched(watchdog):
            answer = await get(health)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
            monkeypatch.setattr("agentbus_worker.watchdog.STANDSTILL_S", 0.01)
            await asyncio.sleep(0.02)
            answer = await get(health)
        assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
        assert re.fullmatch(r"the event loop has stood still for \d+ s", answer.json()["why"])
        assert (await get(url.replace("/metrics", "/other"))).status_code == 404


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "@no-such-name", "WATCHDOG_USEC": "many", "WATCHDOG_PID": "1"},
    ],
    ids=str,
)
async def test_without_a_manager_that_listens_nothing_fails(environment: dict[str, str]):
    watchdog = Watchdog.from_environment(environment)
    async with asyncio.timeout(BOUND_S), watched(watchdog):
        watchdog.ready("a\nb")
        watchdog.status("x")
        watchdog.stopping("y")
        await asyncio.sleep(0)
    assert watchdog.why_unhealthy() == ""
