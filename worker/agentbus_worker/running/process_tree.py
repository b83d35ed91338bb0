"""Starts the commands of a worker, and records them on disk while they run.

On Linux a supervisor looks after each command, and descent decides what belongs to it: see
`agentbus_worker.running.supervising.supervisor`. Elsewhere it is the process group: see
`agentbus_worker.running.process_group`.

The worker records itself by a token with which all its run ids begin. It records each command that runs for more than a
moment, with the start time of its process. So the next worker can clean up after one that was killed together with its
supervisors. Without them, a supervisor that has lost its worker ends all of its command by itself.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]  # `close` needs it, without files
import contextlib
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

from agentbus.protocol.ids import random_token
from agentbus_worker.disk.threads import AT_ONCE, DiskThreads
from agentbus_worker.identity import boot_id
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.process_group import GroupProcess
from agentbus_worker.running.spawn import Command
from agentbus_worker.running.supervising.supervisor import Tree, read
from agentbus_worker.running.supervising.supervisors import SupervisedProcess, Supervisors
from agentbus_worker.running.unended import Unended, unended_of
from agentbus_worker.state_folder import write_atomically

log = logging.getLogger("agentbus.worker")

RUN_VARIABLE: Final = "AGENTBUS_RUN_ID"
TASK_VARIABLE: Final = "AGENTBUS_TASK_ID"
OWNER_VARIABLE: Final = "AGENTBUS_OWNER"
HAS_SUPERVISORS: Final = sys.platform == "linux"
"""Whether a process can become a child subreaper."""
_SLACK_S: Final = 2.0
"""An agent may print what it did before it started the tool only after that."""
_MOST_LOOKED_AT: Final = 4_096
"""As many processes are looked at."""
RunningProcess: TypeAlias = SupervisedProcess | GroupProcess


@dataclass(frozen=True, slots=True)
class Run:
    """A running command: the leader of its session, and the run id in the environment of its processes."""

    pid: int
    run_id: str


class RecordedTask(NamedTuple):
    """A task of this agent, as a record names it. Those of earlier versions do not name the owner."""

    id: str
    owner: str | None = None

    def may_be(self, task_id: str, owner: str) -> bool:
        """Whether it may be that task: two owners may use one id."""
        return self.id == task_id and self.owner in (None, owner)


class Children:
    """The running commands of one worker. The worker is recorded, and has its supervisors, for a `with` block.

    `worker` is the token with which all its run ids begin.
    """

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 0,
        left: Mapping[RecordedTask, Unended] | None = None,
        disk: DiskThreads = AT_ONCE,
    ) -> None:
        """Take the folder of the records.

        Args:
            folder: the records of this worker are written there.
            slots: how many commands are expected to run at once: so many supervisors are kept.
            left: what dead workers of this agent have left and does not end, by its task.
            disk: writes and removes the records, in order.
        """
        self._folder = folder
        self._disk = disk
        self._left = left or {}
        self.worker = random_token()
        self._numbers = itertools.count(1)
        self._runs: dict[str, Run] = {}
        self._recorded: set[str] = set()
        self._unended: list[tuple[Run, RunningProcess, Callable[[], None]]] = []
        self._supervisors = Supervisors(slots, self.worker) if slots and HAS_SUPERVISORS else None

    def __enter__(self) -> Self:
        """Write the record of the worker. A failure is logged; commands run without the record."""
        self._write(
            self.worker,
            {"worker": self.worker},
            lambda error: log.warning("this worker is not on record: %s", error.strerror or error),
        )
        if self._supervisors is not None:
            self._supervisors.start_ahead()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._supervisors is not None:
            self._supervisors.close()
            self._supervisors.wait_closed()  # not long, and not at all after `close`
        self._remove(self.worker)

    async def close(self) -> None:
        """End all that is left, and wait a bounded time for it, without blocking the event loop."""
        if self._supervisors is not None:
            self._supervisors.close()
            await asyncio.to_thread(self._supervisors.wait_closed)

    def new_run_id(self) -> str:
        """Make a run id for the environment of a new command; it begins with the token of this worker."""
        return f"{self.worker}-{next(self._numbers)}"

    async def start(
        self, command: Command, grace_s: float, outputs: tuple[int, int], tmp: Path, stop: asyncio.Future[None]
    ) -> RunningProcess:
        """Start a command with the write ends of its outputs; under a supervisor where there are any.

        Args:
            grace_s: between SIGTERM and SIGKILL, for a supervisor that has lost its worker.
            tmp: a private folder for the standard input.
            stop: when it is done, a start that takes long is not waited for.

        Raises:
            CommandError: it could not be started; the message says why.
        """
        if self._supervisors is None:
            return GroupProcess(command, *outputs, tmp)
        return await self._supervisors.start(command, grace_s, outputs, tmp, stop)

    def started(self, run: Run) -> None:
        """Add a command that has been started."""
        self._runs[run.run_id] = run

    def record(self, run: Run, task_id: str, owner: str = "") -> None:
        """Have the record of a running command written, with which it is found even if it hides its environment.

        Called some time after its start: reading the start time of a process blocks during exec, and a command that
        ends at once needs no record.
        """
        self._recorded.add(run.run_id)
        record = {"pid": run.pid, "run_id": run.run_id, "task_id": task_id, "birth": start_time(run.pid)}
        record |= {"owner": owner} if owner else {}
        self._write(
            run.run_id,
            record,
            lambda error: TaskLog(task_id).warning("its process is not on record: %s", error.strerror or error),
        )

    def forget(self, run: Run) -> None:
        """Remove a command of which nothing is left, and its record."""
        self._runs.pop(run.run_id, None)
        if run.run_id in self._recorded:
            self._recorded.remove(run.run_id)
            self._remove(run.run_id)

    def look_after(self, run: Run, process: RunningProcess, on_gone: Callable[[], None]) -> None:
        """Keep a command that could not be ended, with its record, and call `on_gone` once it has ended after all.

        The record stays if it outlives this worker: the next one tries to end it.
        """
        self._unended.append((run, process, on_gone))

    def left_of(self, task_id: str, owner: str) -> Unended | None:
        """What a dead worker has left of the command of a task, if it still does not end."""
        pids = [pid for task, left in self._left.items() if task.may_be(task_id, owner) for pid in left.pids]
        return unended_of(pids)

    def patrol(self) -> bool:
        """Look after what no run does: supervisors that were stopped or killed, what they have left, unended commands.

        Returns whether an unended command has ended since.
        """
        if self._supervisors is not None:
            self._supervisors.patrol()
        gone = [one for one in self._unended if one[1].is_gone()]
        for run, process, on_gone in gone:
            process.release()
            self.forget(run)
            on_gone()
        self._unended = [one for one in self._unended if one not in gone]
        return bool(gone)

    def _write(self, name: str, record: dict[str, Any], on_error: Callable[[OSError], None]) -> None:
        def write() -> None:
            try:
                write_atomically(self._record(name), json.dumps(record).encode())
            except OSError as error:
                on_error(error)

        self._disk.begin(write)

    def _remove(self, name: str) -> None:
        def remove() -> None:
            with contextlib.suppress(OSError):  # one that is left is harmless: the next worker finds no process for it
                self._record(name).unlink(missing_ok=True)

        self._disk.begin(remove)

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def start_time(pid: int) -> str:
    """Return the start time of a process, which differs for each process with the same pid; empty if it has ended.

    On Linux it is the boot id and the ticks since boot, which do not depend on a clock that can be set.
    """
    if sys.platform == "linux":
        try:
            return f"{boot_id()} {int(read(f'/proc/{pid}/stat').rpartition(b')')[2].split()[19])}"
        except (OSError, IndexError):
            return ""
    import psutil  # noqa: PLC0415

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def is_being_loaded(pid: int) -> bool:
    """Return whether a process is between fork and exec (Linux): its environment cannot be read yet.

    After `vfork` its parent continues before the new program is loaded. Until then the process has no arguments and no
    environment: for some milliseconds, on a busy machine for a second. A kernel thread has no program at all.
    """
    try:
        program = Path(f"/proc/{pid}/exe").readlink()
        return bool(program) and not read(f"/proc/{pid}/cmdline") and _state_of(pid) != b"Z"
    except OSError:
        return False


def _state_of(pid: int) -> bytes:
    return read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0]


def has_younger_process(pid: int, age_s: float) -> bool:
    """Whether a process has a descendant that has been running for less time than `age_s`."""
    most_s = age_s + _SLACK_S
    return any(age is not None and age < most_s for age in map(_age_s, _below(pid)))


def _below(pid: int) -> list[int]:
    if sys.platform != "linux":
        import psutil  # noqa: PLC0415

        try:
            return [child.pid for child in psutil.Process(pid).children(recursive=True)][:_MOST_LOOKED_AT]
        except psutil.Error:
            return []
    return Tree(set(), pid).pids()[:_MOST_LOOKED_AT]


def _age_s(pid: int) -> float | None:
    """Return for how long a process has been running; None if it has ended."""
    if sys.platform != "linux":
        import psutil  # noqa: PLC0415

        try:
            return time.time() - psutil.Process(pid).create_time()
        except psutil.Error:
            return None
    try:
        ticks = int(read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
