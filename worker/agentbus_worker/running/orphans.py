"""Finds by their records what dead workers have left running on this machine, and ends it."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from agentbus.protocol.subjects import is_task_id
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.process_tree import (
    KILL_TIMEOUT_S,
    POLL_S,
    RUN_VARIABLE,
    TASK_VARIABLE,
    birth,
    is_being_loaded,
)

_ROUNDS: Final = 5
_LOADING_TIMEOUT_S: Final = 10.0
"""How long to wait for processes that are between fork and exec: they may belong to a dead worker."""


async def end_abandoned(folder: Path, grace_s: float) -> None:
    """End the commands that dead workers have left running, by their records: never by name, never by pid alone."""
    records = [*folder.glob("*.json")]
    if records:
        await asyncio.to_thread(_end_recorded, records, grace_s)
        for path in records:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class _Recorded:
    """The records: the workers, the start time of each process, and the task of each run."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._workers: set[str] = set()
        self._births: dict[int, tuple[str, str]] = {}
        self._tasks: dict[str, str] = {}
        for path in paths:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # not a record of ours
                self._add(json.loads(path.read_bytes()))

    def _add(self, record: dict[str, Any]) -> None:
        if worker := record.get("worker"):
            self._workers.add(str(worker))
            return
        pid, run_id, born = int(record["pid"]), str(record["run_id"]), str(record["birth"])
        if run_id:
            self._tasks[run_id] = str(record.get("task_id"))
            self._births[pid] = born, self._tasks[run_id]

    def task_of(self, process: Any) -> str | None:
        """Find the task that a process works for; None if it belongs to no recorded worker."""
        import psutil  # noqa: PLC0415

        if process.pid == os.getpid() or not _lives(process):
            return None  # this worker itself may have been started by an agent, and then has a run id of that agent
        try:
            born, task_id = self._births.get(process.pid, ("", None))
            if born and born == birth(process.pid):
                return task_id
            environment = process.environ()
            run_id = environment.get(RUN_VARIABLE, "")
            if run_id in self._tasks:
                return self._tasks[run_id]
            if run_id.rpartition("-")[0] not in self._workers:
                return None
            task_id = environment.get(TASK_VARIABLE, "")  # the process may have changed it
            return task_id if is_task_id(task_id) else "unknown"
        except (psutil.Error, OSError):
            return None


def _end_recorded(paths: Iterable[Path], grace_s: float) -> None:
    recorded = _Recorded(paths)
    timeout_s = grace_s
    for _ in range(_ROUNDS):  # a process that gets SIGTERM may start another one meanwhile
        found = _processes_of(recorded)
        if not found:
            return
        for task_id, count in Counter(task_id for _, task_id in found).items():
            TaskLog(task_id).warning("ending %d processes of a worker that was killed", count)
        living = _after([process for process, _ in found], signal.SIGTERM, timeout_s)
        _after(living, signal.SIGKILL, KILL_TIMEOUT_S)
        timeout_s = 0.0


def _processes_of(recorded: _Recorded) -> list[tuple[Any, str]]:
    """Find the processes of dead workers, each with its task. Wait for one that is between fork and exec."""
    import psutil  # noqa: PLC0415  # only needed when there is something to clean up

    deadline = time.monotonic() + _LOADING_TIMEOUT_S
    while True:
        processes = [*psutil.process_iter()]
        found = [(process, task_id) for process in processes if (task_id := recorded.task_of(process))]
        loading = any(is_being_loaded(process.pid) for process in processes)
        if found or not loading or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def _after(processes: list[Any], number: int, timeout_s: float) -> list[Any]:
    """Signal processes that are not our children, and wait for their end; returns those that are still alive."""
    import psutil  # noqa: PLC0415

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    deadline = time.monotonic() + timeout_s
    while (living := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return living


def _lives(process: Any) -> bool:
    """Whether a process runs. A zombie does not: its new parent may not have waited for it yet."""
    import psutil  # noqa: PLC0415

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
