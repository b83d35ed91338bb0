"""Whatever the worker logs to stands still: the work goes on, and the worker stops in time."""

import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.log.log_file import LOG_FILE
from support.harness import eventually, worker_toml
from support.jobs import outcome

IN_TIME_S: Final = 10.0
SHORT_PIPE: Final = 4_096
"""The least that a pipe can hold on Linux; elsewhere it is left as it is."""


def fill(file: int) -> None:
    """Write until there is no room left."""
    os.set_blocking(file, False)
    for size in (1024, 1):
        with contextlib.suppress(BlockingIOError):
            while os.write(file, b"." * size):
                pass
    os.set_blocking(file, True)


@contextlib.contextmanager
def full_pipe() -> Generator[tuple[int, int]]:
    ours, theirs = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, SHORT_PIPE)
    fill(theirs)
    yield ours, theirs


@contextlib.contextmanager
def held_terminal() -> Generator[tuple[int, int]]:
    """A terminal after Ctrl-S."""
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)
    yield ours, theirs


STANDING: Final = {"a full pipe": full_pipe, "a terminal after Ctrl-S": held_terminal}


@contextlib.contextmanager
def worker_with(stderr: int, config: Path) -> Generator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "agentbus", "worker", "run", "--config", str(config)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr) as child:
        try:
            yield child
        finally:
            child.kill()


def completed(log: Path) -> int:
    return log.read_text(encoding="utf-8").count("settled status=completed")


async def ended(child: subprocess.Popen[bytes]) -> int:
    await eventually(lambda: child.poll() is not None, "the worker has ended", timeout_s=IN_TIME_S)
    return int(child.returncode)


@pytest.mark.parametrize("kind", STANDING)
async def test_a_standard_error_that_stands_still_holds_up_neither_the_tasks_nor_the_end(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, kind: str
):
    log = tmp_path / "logs-code" / LOG_FILE
    with STANDING[kind]() as (ours, theirs):
        try:
            with worker_with(theirs, worker_toml(tmp_path, server.url)) as child:
                for _ in range(3):
                    assert (await outcome(coordinator, "say:done")).state == "completed"
                await eventually(lambda: completed(log) == 3, "the file is not behind")
                child.terminate()
                assert await ended(child) == 0
        finally:
            os.close(ours)
            os.close(theirs)


async def test_a_log_file_on_a_disk_that_hangs_holds_up_neither_the_tasks_nor_the_end(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    """A named pipe that nobody reads takes nothing and refuses nothing, as such a disk does."""
    log = tmp_path / "logs-code" / LOG_FILE
    log.parent.mkdir()
    os.mkfifo(log)
    reader = os.open(log, os.O_RDWR)
    fill(reader)
    stderr = tmp_path / "stderr"
    try:
        with stderr.open("wb") as sink, worker_with(sink.fileno(), worker_toml(tmp_path, server.url)) as child:
            for _ in range(3):
                assert (await outcome(coordinator, "say:done")).state == "completed"
            child.terminate()
            assert await ended(child) == 0
    finally:
        os.close(reader)
    assert completed(stderr) == 3, "the other stream is not behind"
