"""Finds processes that dead workers left running on this machine, by their records, and ends them.

The supervisors of a dead worker end its commands by themselves, and are waited for. If they were killed as well, what
is on record is found, and what descends from it; as the last resort, what has the run id in its environment.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentbus.protocol.subjects import is_agent_id, is_task_id
from agentbus_worker.disk.threads import AT_ONCE, DiskThreads
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.process_group import POLL_S
from agentbus_worker.running.process_tree import (
    OWNER_VARIABLE,
    RUN_VARIABLE,
    TASK_VARIABLE,
    RecordedTask,
    is_being_loaded,
    start_time,
)
from agentbus_worker.running.supervising import supervisor
from agentbus_worker.running.supervising.supervisor import KILL_TIMEOUT_S
from agentbus_worker.running.unended import Unended, unended_of

_ROUNDS: Final = 5
_SUPERVISOR: Final = Path(supervisor.__file__).name
"""The release that a dead worker was of may lie in another folder."""
_LOADING_TIMEOUT_S: Final = 10.0
"""How long to wait for processes between fork and exec, which may belong to a dead worker."""


class Orphans(NamedTuple):
    """What has become of the commands of dead workers.

    Attributes:
        left: what does not end, by its task.
        all_found: whether nothing else can be left: no process kept on starting others, or on being loaded.
    """

    left: dict[RecordedTask, Unended]
    all_found: bool = True


async def end_orphans(
    folder: Path, grace_s: float, workers: Iterable[str] = (), disk: DiskThreads = AT_ONCE
) -> Orphans:
    """End the commands that dead workers left running: found by records, never by name or by pid alone.

    The records stay for the next start if anything does not end, or may not have been found.

    Args:
        folder: has the records.
        grace_s: between SIGTERM and SIGKILL.
        workers: the tokens of dead workers that are known from elsewhere.
        disk: reads and removes the records.
    """
    paths, records = await disk.run(lambda: _read(folder, [*workers]), timeout_s=None)
    if records is None:
        return Orphans({})
    orphans = await asyncio.to_thread(_end_processes_of, records, grace_s)
    if orphans.all_found and not orphans.left:
        disk.begin(lambda: _remove(paths))
    return orphans


async def end_run(run_id: str, task_id: str, owner: str, grace_s: float) -> Orphans:
    """End what is left of one run, whichever worker had started it; found by its run id, and by descent from that."""
    records = _Records([], [])
    records.add_run(run_id, _task(task_id, owner))
    return await asyncio.to_thread(_end_processes_of, records, grace_s)


def _read(folder: Path, workers: list[str]) -> "tuple[list[Path], _Records | None]":
    paths = [*folder.glob("*.json")]
    return paths, _Records(paths, workers) if paths or workers else None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


class _Records:
    """The records of dead workers: the workers, the start time of each process, and the task of each run."""

    def __init__(self, paths: Iterable[Path], workers: Iterable[str]) -> None:
        self._workers = set(workers)
        self._start_times: dict[int, tuple[str, RecordedTask]] = {}
        self._tasks: dict[str, RecordedTask] = {}
        for path in paths:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # not a record of ours
                self._add(json.loads(path.read_bytes()))

    def _add(self, record: dict[str, Any]) -> None:
        if worker := record.get("worker"):
            self._workers.add(str(worker))
            return
        pid, run_id, started = int(record["pid"]), str(record["run_id"]), str(record["birth"])
        if run_id:
            self._tasks[run_id] = _task(str(record.get("task_id")), record.get("owner"))
            self._start_times[pid] = started, self._tasks[run_id]

    def add_run(self, run_id: str, task: RecordedTask) -> None:
        """Add a run that is known from elsewhere."""
        self._tasks[run_id] = task

    def is_supervisor(self, process: Any) -> bool:
        """Whether a process is, or looks like, a supervisor of a recorded worker: that is waited for, not spared."""
        import psutil  # noqa: PLC0415

        with contextlib.suppress(psutil.Error, OSError):
            return _is_running(process) and any(
                Path(path).name == _SUPERVISOR and worker in self._workers
                for path, worker in itertools.pairwise(process.cmdline())
            )
        return False

    def task_of(self, process: Any) -> RecordedTask | None:
        """Return the task that a process belongs to; None if it belongs to no recorded worker."""
        import psutil  # noqa: PLC0415

        if process.pid == os.getpid() or not _is_running(process):
            return None  # an agent may have started this worker, which then has the run id of that agent
        try:
            started, task = self._start_times.get(process.pid, ("", None))
            if started and started == start_time(process.pid):
                return task
            environment = process.environ()
            run_id = environment.get(RUN_VARIABLE, "")
            if run_id in self._tasks:
                return self._tasks[run_id]
            if run_id.rpartition("-")[0] not in self._workers:
                return None
            # Untrusted: the process may have changed it.
            return _task(environment.get(TASK_VARIABLE, ""), environment.get(OWNER_VARIABLE))
        except (psutil.Error, OSError):
            return None


def _task(task_id: str, owner: object) -> RecordedTask:
    return RecordedTask(task_id if is_task_id(task_id) else "unknown", owner if is_agent_id(owner) else None)


def _end_processes_of(records: _Records, grace_s: float) -> Orphans:
    _wait_for_supervisors(records, grace_s + 2 * KILL_TIMEOUT_S)
    timeout_s = grace_s
    for _ in range(_ROUNDS):  # a process that gets SIGTERM may start another one
        found, all_found = _processes_of(records)
        if not found:
            return Orphans({}, all_found)
        for task, count in Counter(task for _, task in found).items():
            TaskLog(task.id).warning("ending %d processes of an earlier run", count)
        living = _signal_and_wait([process for process, _ in found], signal.SIGTERM, timeout_s)
        living = _signal_and_wait(living, signal.SIGKILL, KILL_TIMEOUT_S)
        if left := _unended_by_task(living, {process.pid: task for process, task in found}):
            return Orphans(left)
        timeout_s = 0.0
    return Orphans({}, all_found=False)


def _unended_by_task(living: list[Any], tasks: dict[int, RecordedTask]) -> dict[RecordedTask, Unended]:
    pids: dict[RecordedTask, list[int]] = {}
    for process in living:
        pids.setdefault(tasks[process.pid], []).append(process.pid)
    left = {task: unended for task, of_task in pids.items() if (unended := unended_of(of_task)) is not None}
    for task, unended in left.items():
        shown = ", ".join(map(str, unended.pids))
        TaskLog(task.id).error("its command has outlived its worker and does not end: it %s", unended.why, pids=shown)
    return left


def _wait_for_supervisors(records: _Records, timeout_s: float) -> None:
    """Wait until the supervisors of dead workers have ended their commands and themselves; kill one that does not."""
    import psutil  # noqa: PLC0415  # only needed when there is something to clean up

    supervisors = [process for process in psutil.process_iter() if records.is_supervisor(process)]
    _signal_and_wait(_signal_and_wait(supervisors, 0, timeout_s), signal.SIGKILL, KILL_TIMEOUT_S)


def _processes_of(records: _Records) -> tuple[list[tuple[Any, RecordedTask]], bool]:
    """Return the processes of dead workers, each with its task, and whether these are all.

    Processes between fork and exec are waited for.
    """
    import psutil  # noqa: PLC0415

    deadline = time.monotonic() + _LOADING_TIMEOUT_S
    while True:
        processes = [*psutil.process_iter()]
        # First: one that is loaded meanwhile has an environment to be read by.
        loading = any(is_being_loaded(process.pid) for process in processes)
        found = _with_descendants(processes, {process.pid: records.task_of(process) for process in processes})
        if found or not loading or time.monotonic() > deadline:
            return found, not loading
        time.sleep(POLL_S)


def _with_descendants(processes: list[Any], tasks: dict[int, RecordedTask | None]) -> list[tuple[Any, RecordedTask]]:
    """Name the task of each process that has one or descends from one that has; never that of this worker."""
    import psutil  # noqa: PLC0415

    parents: dict[int, int] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            parents[process.pid] = process.ppid()
    found: list[tuple[Any, RecordedTask]] = []
    for process in processes:
        line = [process.pid]
        while (parent := parents.get(line[-1], 0)) and parent not in line:
            line.append(parent)
        if process.pid == os.getpid() or not _is_running(process):
            continue
        if task := next((task for pid in line if (task := tasks.get(pid))), None):
            found.append((process, task))
    return found


def _signal_and_wait(processes: list[Any], number: int, timeout_s: float) -> list[Any]:
    """Signal processes, and wait until they end; returns those that still run. They are not our children."""
    import psutil  # noqa: PLC0415

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    deadline = time.monotonic() + timeout_s
    while (living := [process for process in processes if _is_running(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return living


def _is_running(process: Any) -> bool:
    """Return whether a process runs. A zombie, which its parent has not reaped yet, does not."""
    import psutil  # noqa: PLC0415

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
