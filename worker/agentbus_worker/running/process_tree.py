"""Finds and ends every process that a command has started.

Each command has its own session, so its process group is signalled as one. On Linux, processes that left the group are
found too. The worker is a child subreaper, so orphans become its children, and the run id in their environment names
their command. An orphan without a run id is ended with the last command that runs. Other systems end the group alone.

The worker records itself by a token with which all its run ids begin. It records each command that runs for more than a
moment, with the start time of its process. So the next worker can clean up after one that was killed.
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
    """A running command: its process, which leads its group, and the run id in the environment of all it starts."""

    pid: int
    run_id: str


class Children:
    """The running commands of one worker. The worker is recorded for the length of a `with` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worker = random_token()
        self._numbers = itertools.count(1)
        self._runs: dict[int, Run] = {}
        self._recorded: set[int] = set()
        self._ended: set[int] = set()  # runs whose command has ended and whose orphans are being ended
        self._asked: dict[
            int, set[int]
        ] = {}  # processes that have had their SIGTERM: some quit uncleanly on a second one

    def __enter__(self) -> Self:
        """Record the worker. An error of the disk is logged, and commands run all the same."""
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
        """Make a run id for the environment of a new command; it names this worker too."""
        return f"{self._worker}-{next(self._numbers)}"

    def started(self, run: Run) -> None:
        """Add a command that has been started."""
        self._runs[run.pid] = run
        self._asked[run.pid] = set()

    def record(self, run: Run, task_id: str) -> None:
        """Record a running command, so that it is found even if it hides its environment.

        Not right after its start: while a program is being loaded, asking for its birth blocks, and one
        that is over in no time needs no record.
        """
        self._recorded.add(run.pid)
        record = {"pid": run.pid, "run_id": run.run_id, "task_id": task_id, "birth": birth(run.pid)}
        try:
            self._write(run.run_id, record)
        except OSError as error:
            TaskLog(task_id).warning("its process is not on record: %s", error.strerror or error)

    def ended(self, run: Run) -> bool:
        """Note that the command itself has ended and was waited for; returns whether it left nothing behind."""
        self._ended.add(run.pid)
        if self.signal(run, signal.SIGTERM):
            return False
        self.forget(run)
        return True

    def signal(self, run: Run, number: int) -> bool:
        """Signal the command's group and all that left it, SIGTERM only once; returns whether anything was there."""
        asked = self._asked[run.pid] if number == signal.SIGTERM else set[int]()
        strays, unknown = self._strays(run)
        for pid in strays - asked:
            _signal_tree(pid, number)
        there = signal_group(run.pid, 0 if run.pid in asked else number)
        asked |= {run.pid, *strays}
        return there or bool(strays) or unknown

    def signal_group(self, run: Run) -> None:
        """Send SIGTERM to the command's group, unless it has had it."""
        if run.pid not in self._asked[run.pid]:
            self._asked[run.pid].add(run.pid)
            signal_group(run.pid, signal.SIGTERM)

    def kill(self, run: Run, wait: Callable[[], object]) -> None:
        """Send SIGKILL to all of it, at once and without the event loop; `wait` waits for the command itself.

        Does nothing if it was cleared already: its ids may belong to other processes by now.
        """
        if run.pid not in self._runs:
            return
        self.signal(run, signal.SIGKILL)
        wait()
        self._ended.add(run.pid)
        # The children of the command become orphans only now, and their own children in the next round.
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while self.signal(run, signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.forget(run)

    def reap(self) -> None:
        """Reap orphans that have ended while a command runs: it may run for hours and leave one every second."""
        for pid in _children_of_this_process() - self._runs.keys():
            _reap(pid)

    async def clear(self, run: Run, grace_s: float) -> None:
        """End what an ended command has left behind: SIGTERM, and after `grace_s` SIGKILL."""
        if run.pid not in self._runs:
            return  # already cleared: its ids may belong to other processes by now
        for number, timeout_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
            if await self._gone(run, number, timeout_s):
                break
        else:
            log.warning("processes that the command %d has left do not end, not even by SIGKILL", run.pid)
        self.forget(run)

    async def _gone(self, run: Run, number: int, timeout_s: float) -> bool:
        """Signal what is left, again and again, until it is gone; returns whether it is."""
        async for _ in retry_until(deadline_after(timeout_s), POLL_S):
            if not self.signal(run, number):
                return True
        return False

    def forget(self, run: Run) -> None:
        """Remove a command and its record."""
        self._runs.pop(run.pid, None)
        self._ended.discard(run.pid)
        if run.pid in self._recorded:
            self._recorded.remove(run.pid)
            self._remove(run.run_id)
        self._asked.pop(run.pid, None)

    def _strays(self, run: Run) -> tuple[set[int], bool]:
        """Find orphans of this command outside of its group, and whether some cannot be attributed yet.

        Orphans that have ended are waited for on the way.
        """
        strays, unknown = set[int](), False
        orphans = _children_of_this_process() - self._runs.keys()
        if not orphans:
            return strays, unknown
        others = {other.run_id for other in self._runs.values()} - {run.run_id}
        alone = self._runs.keys() - self._ended <= {run.pid}
        for pid in orphans:
            if _reap(pid) or _group_of(pid) == run.pid:
                continue
            owner = _run_id_of(pid)
            # An orphan that has changed its environment is certain to be this command's only if no other command runs.
            if owner == run.run_id or (owner not in others and alone):
                strays.add(pid)
            elif not owner and is_being_loaded(pid):
                unknown = True
        return strays, unknown

    def _write(self, name: str, record: dict[str, Any]) -> None:
        write_atomically(self._record(name), json.dumps(record).encode())

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # a record that stays is harmless: the next worker finds no process for it
            self._record(name).unlink(missing_ok=True)

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def become_subreaper() -> None:
    """Let orphans of commands become children of this process (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def birth(pid: int) -> str:
    """Tell a process from all others that ever have its pid, by its start time; empty if it has ended.

    Not by a clock that can be set: by the boot, and the ticks since then at which it was started.
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
    """Read a file of /proc with few system calls: this happens for every command."""
    file = os.open(path, os.O_RDONLY)
    try:
        found = b""
        while piece := os.read(file, 65_536):
            found += piece
        return found
    finally:
        os.close(file)


def _children_of_this_process() -> set[int]:
    """List direct children, orphans of commands among them; empty where the system does not tell.

    Those of the main thread: it starts the commands, and it is the first of the living threads, which gets the orphans.
    """
    found = b""
    try:
        while piece := os.pread(_list_of_children(), 65_536, len(found)):
            found += piece
    except OSError:
        return set()
    return set(map(int, found.split()))


@functools.cache
def _list_of_children() -> int:
    """The file that lists the children of this thread. It stays open: opening takes ten times as long as reading."""
    return os.open("/proc/thread-self/children", os.O_RDONLY)


def _run_id_of(pid: int) -> str:
    """Read the run id from the environment that a process was started with; empty if none is visible."""
    prefix = f"{RUN_VARIABLE}=".encode()
    with contextlib.suppress(OSError):
        for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if item.startswith(prefix):
                return item[len(prefix) :].decode(errors="replace")
    return ""


def is_being_loaded(pid: int) -> bool:
    """Whether a process is between fork and exec (Linux): its environment cannot be read yet.

    It has no arguments and no environment between the moment at which its parent goes on after a `vfork` and that at
    which its program is there: some milliseconds, on a busy machine a second. A kernel thread has no program either.
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
