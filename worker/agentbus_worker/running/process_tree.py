"""Finds and ends every process that a command has started.

Each command has its own session and process group, and the worker signals the whole group. On Linux it also finds
processes that left the group: as a child subreaper it becomes the parent of orphans, and the run id in their
environment identifies their command. An orphan without a run id is ended with the last running command. On other
systems only the group is ended.

The worker writes records to disk, with which the next worker finds the processes of one that was killed: one of itself,
with the token that all its run ids begin with, and one of each command that runs for more than a moment, with the start
time of its process.
"""

import contextlib
import ctypes
import functools
import itertools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.protocol.ids import random_token
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.state_folder import write_atomically

log = logging.getLogger("agentbus.worker")

RUN_VARIABLE: Final = "AGENTBUS_RUN_ID"
TASK_VARIABLE: Final = "AGENTBUS_TASK_ID"
POLL_S: Final = 0.02
KILL_TIMEOUT_S: Final = 1.0
"""How long to wait after SIGKILL; a process in an uninterruptible system call may take longer."""
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class Run:
    """A running command: the leader of its process group, and the run id in the environment of its processes."""

    pid: int
    run_id: str


class Children:
    """The running commands of one worker. The record of the worker exists for the length of a `with` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worker = random_token()
        self._numbers = itertools.count(1)
        self._runs: dict[int, Run] = {}
        self._recorded: set[int] = set()
        self._ended: set[int] = set()  # runs whose command has ended and whose orphans are being ended
        self._sigterm_sent: dict[int, set[int]] = {}  # processes that got SIGTERM; some exit uncleanly on a second one

    def __enter__(self) -> Self:
        """Write the record of the worker. A failure is logged; commands run without the record."""
        try:
            self._write(self._worker, {"worker": self._worker})
        except OSError as error:
            log.warning("this worker is not on record: %s", error.strerror or error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove(self._worker)

    def new_run_id(self) -> str:
        """Make a run id for the environment of a new command; it begins with the token of this worker."""
        return f"{self._worker}-{next(self._numbers)}"

    def started(self, run: Run) -> None:
        """Add a command that has been started."""
        self._runs[run.pid] = run
        self._sigterm_sent[run.pid] = set()

    def record(self, run: Run, task_id: str) -> None:
        """Write the record of a running command, with which it is found even if it hides its environment.

        Called some time after its start: reading the start time of a process blocks during exec, and a command that
        ends at once needs no record.
        """
        self._recorded.add(run.pid)
        record = {"pid": run.pid, "run_id": run.run_id, "task_id": task_id, "birth": start_time(run.pid)}
        try:
            self._write(run.run_id, record)
        except OSError as error:
            TaskLog(task_id).warning("its process is not on record: %s", error.strerror or error)

    def ended(self, run: Run) -> bool:
        """Note that the command was reaped, and send SIGTERM to the rest; returns whether it left no process behind."""
        self._ended.add(run.pid)
        if self.signal(run, signal.SIGTERM):
            return False
        self.forget(run)
        return True

    def signal(self, run: Run, number: int) -> bool:
        """Signal the command's group and its orphans, SIGTERM only once; returns whether there was any process."""
        sent = self._sigterm_sent[run.pid] if number == signal.SIGTERM else set[int]()
        orphans, unknown = self._orphans_of(run)
        for pid in orphans - sent:
            _signal_tree(pid, number)
        there = signal_group(run.pid, 0 if run.pid in sent else number)
        sent |= {run.pid, *orphans}
        return there or bool(orphans) or unknown

    def signal_group(self, run: Run) -> None:
        """Send SIGTERM to the command's group, unless it was sent before."""
        if run.pid not in self._sigterm_sent[run.pid]:
            self._sigterm_sent[run.pid].add(run.pid)
            signal_group(run.pid, signal.SIGTERM)

    def kill(self, run: Run, wait: Callable[[], object]) -> None:
        """Send SIGKILL to all processes of a command, without the event loop; `wait` reaps the command itself.

        Does nothing after the clean-up: the process ids may belong to other processes by now.
        """
        if run.pid not in self._runs:
            return
        self.signal(run, signal.SIGKILL)
        wait()
        self._ended.add(run.pid)
        # Now the children of the command become orphans, and in the next round their children do.
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while self.signal(run, signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.forget(run)

    def reap(self) -> None:
        """Reap orphans that have ended while a command runs: a long command may leave many of them."""
        for pid in _children_of_this_process() - self._runs.keys():
            _reap(pid)

    async def clean_up(self, run: Run, grace_s: float) -> None:
        """End the processes that an ended command left behind: SIGTERM, and after `grace_s` SIGKILL."""
        if run.pid not in self._runs:
            return  # already cleaned up: the process ids may belong to other processes by now
        for number, timeout_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
            if await self._signal_until_gone(run, number, timeout_s):
                break
        else:
            log.warning("processes that the command %d left behind do not end, not even by SIGKILL", run.pid)
        self.forget(run)

    async def _signal_until_gone(self, run: Run, number: int, timeout_s: float) -> bool:
        """Signal the remaining processes repeatedly until none is left; returns whether none is."""
        async for _ in retry_until(deadline_after(timeout_s), POLL_S):
            if not self.signal(run, number):
                return True
        return False

    def forget(self, run: Run) -> None:
        """Remove a command that has ended, and its record."""
        self._runs.pop(run.pid, None)
        self._ended.discard(run.pid)
        if run.pid in self._recorded:
            self._recorded.remove(run.pid)
            self._remove(run.run_id)
        self._sigterm_sent.pop(run.pid, None)

    def _orphans_of(self, run: Run) -> tuple[set[int], bool]:
        """Find orphans of this command outside of its group, and whether some cannot be attributed yet.

        Orphans that have ended are reaped.
        """
        found, unknown = set[int](), False
        orphans = _children_of_this_process() - self._runs.keys()
        if not orphans:
            return found, unknown
        others = {other.run_id for other in self._runs.values()} - {run.run_id}
        alone = self._runs.keys() - self._ended <= {run.pid}
        for pid in orphans:
            if _reap(pid) or _group_of(pid) == run.pid:
                continue
            owner = _run_id_of(pid)
            # An orphan without a run id is certain to be of this command only if no other command runs.
            if owner == run.run_id or (owner not in others and alone):
                found.add(pid)
            elif not owner and is_being_loaded(pid):
                unknown = True
        return found, unknown

    def _write(self, name: str, record: dict[str, Any]) -> None:
        write_atomically(self._record(name), json.dumps(record).encode())

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # a record that is left is harmless: the next worker finds no process for it
            self._record(name).unlink(missing_ok=True)

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def become_subreaper() -> None:
    """Make this process the parent of orphans of its commands (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start_time(pid: int) -> str:
    """Return the start time of a process, which differs for each process with the same pid; empty if it has ended.

    On Linux it is the boot id and the ticks since boot, which do not depend on a clock that can be set.
    """
    if sys.platform == "linux":
        try:
            return f"{_boot_id()} {int(_read(f'/proc/{pid}/stat').rpartition(b')')[2].split()[19])}"
        except (OSError, IndexError):
            return ""
    import psutil  # noqa: PLC0415

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


@functools.cache
def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def _read(path: str) -> bytes:
    """Read a file of /proc with few system calls, because this runs for every command."""
    file = os.open(path, os.O_RDONLY)
    try:
        found = b""
        while piece := os.read(file, 65_536):
            found += piece
        return found
    finally:
        os.close(file)


def _children_of_this_process() -> set[int]:
    """Return the children of the main thread, orphans of commands among them; empty where there is no such list.

    The main thread starts the commands, and the kernel gives orphans to the first living thread.
    """
    found = b""
    try:
        while piece := os.pread(_children_file(), 65_536, len(found)):
            found += piece
    except OSError:
        return set()
    return set(map(int, found.split()))


@functools.cache
def _children_file() -> int:
    """Open the list of this thread's children. It stays open, because opening takes ten times as long as reading."""
    return os.open("/proc/thread-self/children", os.O_RDONLY)


def _run_id_of(pid: int) -> str:
    """Return the run id from the environment that a process was started with; empty if there is none."""
    prefix = f"{RUN_VARIABLE}=".encode()
    with contextlib.suppress(OSError):
        for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if item.startswith(prefix):
                return item[len(prefix) :].decode(errors="replace")
    return ""


def is_being_loaded(pid: int) -> bool:
    """Return whether a process is between fork and exec (Linux): its environment cannot be read yet.

    After `vfork` its parent continues before the new program is loaded. Until then the process has no arguments and no
    environment: for some milliseconds, on a busy machine for a second. A kernel thread has no program at all.
    """
    try:
        program = Path(f"/proc/{pid}/exe").readlink()
        return bool(program) and not _read(f"/proc/{pid}/cmdline") and _state_of(pid) != b"Z"
    except OSError:
        return False


def _state_of(pid: int) -> bytes:
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0]


def _reap(pid: int) -> bool:
    """Reap a child if it has ended; returns whether it had."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _group_of(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getpgid(pid)
    return 0


def _signal_tree(pid: int, number: int) -> None:
    """Signal a process, and its whole group if it leads one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if _group_of(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def signal_group(group: int, number: int) -> bool:
    """Signal a process group; returns whether there is one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # the process is there, and has changed its user
    return True
