"""The signals that end a worker: each lets running tasks finish, and no command outlives the worker unwatched."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import Process, eventually, worker, worker_toml
from support.jobs import gone, outcome, pid_from, publish, settled, text
from support.supervised import supervisors_of

pytestmark = pytest.mark.usefixtures("signals_of_a_terminal")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="there are supervisors on Linux alone")


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGHUP, signal.SIGHUP],  # of a closed terminal: by the shell, and by the kernel
        [signal.SIGQUIT],
        [signal.SIGUSR1, signal.SIGALRM],
    ],
    ids=["SIGHUP", "SIGQUIT", "others"],
)
async def test_a_signal_that_would_end_any_program_lets_the_running_task_finish(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, numbers: list[signal.Signals]
):
    gate, pid_file = tmp_path / "gate", tmp_path / "pid"
    async with worker(worker_toml(tmp_path, server.url)) as child:
        task_id = await publish(coordinator, f"pid:{pid_file} wait:{gate} say:done")
        await pid_from(pid_file)
        for number in numbers:
            os.kill(child.pid, number)
            await child.until_said("stopping: 1 running")
        gate.touch()
        assert text(await settled(coordinator, task_id)) == "done\n"
        assert await child.exit_code() == 0


async def test_a_second_sigquit_ends_the_worker_at_once_and_its_task_goes_back(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    pid_file = tmp_path / "pid"
    async with worker(worker_toml(tmp_path, server.url, worker={"drain_timeout_seconds": 600})) as child:
        await publish(coordinator, f"pid:{pid_file} sleep:600")
        pid = await pid_from(pid_file)
        os.kill(child.pid, signal.SIGQUIT)
        await child.until_said("stopping: 1 running")
        os.kill(child.pid, signal.SIGQUIT)
        assert await child.exit_code() == 0
        assert child.said("released to the bus")
        await gone(pid)


async def test_a_worker_under_nohup_goes_on_after_a_hangup(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url)
    async with worker(config, prefix=("sh", "-c", 'trap "" HUP; exec "$@"', "sh")) as child:
        os.kill(child.pid, signal.SIGHUP)
        assert text(await outcome(coordinator, "say:done")) == "done\n"
        assert not child.said("stopping")


@contextlib.contextmanager
def in_a_terminal(config: Path) -> Generator[tuple[Process, int]]:
    """A worker in a terminal of its own, in which it leads the session, and our end of that terminal."""
    ours, theirs = pty.openpty()
    argv = ["setsid", "--ctty", sys.executable, "-m", "agentbus", "worker", "run", "--config", str(config)]
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as popen:
        os.close(theirs)
        try:
            yield Process(popen, config.parent / "logs-code" / "agentbus-worker.log"), ours
        finally:
            with contextlib.suppress(OSError):
                os.close(ours)
            popen.kill()


@linux_only
async def test_a_worker_whose_terminal_is_closed_finishes_its_task_though_it_can_print_nothing_more(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    gate, pid_file = tmp_path / "gate", tmp_path / "pid"
    with in_a_terminal(worker_toml(tmp_path, server.url)) as (child, terminal):
        await eventually(child.log.exists, "it logs")
        await child.until_said("ready for tasks")
        task_id = await publish(coordinator, f"pid:{pid_file} wait:{gate} say:done")
        await pid_from(pid_file)
        os.close(terminal)
        await child.until_said("stopping: 1 running")
        gate.touch()
        assert text(await settled(coordinator, task_id)) == "done\n"
        assert await child.exit_code() == 0


# -- it is killed -----------------------------------------------------------------------------------------------


@linux_only
async def test_a_supervisor_that_is_stopped_when_its_worker_is_killed_ends_its_command_all_the_same(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    pid_file = tmp_path / "pid"
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await publish(coordinator, f"pid:{pid_file} sleep:600")
        pid = await pid_from(pid_file)
        os.kill(child.pid, signal.SIGSTOP)  # it would let the supervisor go on
        supervisors = supervisors_of(child.pid)
        for supervisor in supervisors:
            os.kill(supervisor, signal.SIGSTOP)
        child.kill()
        try:
            await gone(pid, *supervisors)
        finally:
            for left in (pid, *supervisors):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)
