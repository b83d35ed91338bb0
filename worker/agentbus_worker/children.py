"""What a command leaves behind: every process that it started is found and ended.

A command has a session of its own, so its process group is ended as one. What left the group is found on Linux: the
worker is a child subreaper, so orphans become its own children, and the run id in their environment says where they
belong; one that names no run is ended with the last command that runs. Elsewhere the group alone is ended. Each running
command is on record, with the start time of its process, so that a worker that was killed is cleaned up after by the
next one.
"""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentbus_worker.state import PART_SUFFIX

log = logging.getLogger("agentbus.worker")

RUN_VARIABLE: Final = "AGENTBUS_RUN_ID"
_POLL_S: Final = 0.02
_KILL_PATIENCE_S: Final = 1.0
"""How long to wait for what has had its SIGKILL; a process in an uninterruptible call may stay for longer."""
_SAME_START_S: Final = 2.0
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class Run:
    """One running command: its process, which leads its group, and the id in the environment of all it starts."""

    pid: int
    run_id: str


class Children:
    """The running commands of one worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[int, Run] = {}
        self._ended: set[int] = set()  # those of them whose command has ended, and that are being cleared
        self._asked: dict[
            int, set[int]
        ] = {}  # what has had its SIGTERM: some take a second one as an order to drop all

    def starting(self, run_id: str, task_id: str) -> None:
        """Put a command on record before it is started: a worker that is killed in between must not leave it unknown.

        A disk that takes nothing is logged, and the command runs all the same.
        """
        self._write({"pid": 0, "run_id": run_id, "task_id": task_id, "started": 0.0})

    def not_started(self, run_id: str) -> None:
        """Take a command off the record that could not be started."""
        self._remove(run_id)

    def started(self, run: Run, task_id: str) -> None:
        """Add its process to the record: it is found by that if it hides its environment."""
        self._runs[run.pid] = run
        self._asked[run.pid] = set()
        self._write({"pid": run.pid, "run_id": run.run_id, "task_id": task_id, "started": _start_time(run.pid)})

    def ended(self, run: Run) -> None:
        """The command itself has ended and was waited for; what it has left is still to be cleared."""
        self._ended.add(run.pid)

    def signal(self, run: Run, number: int) -> bool:
        """Signal the command's group and everything that has left it, SIGTERM once; whether anything was there."""
        asked = self._asked[run.pid] if number == signal.SIGTERM else set[int]()
        strays = set(self._strays(run))
        for pid in strays - asked:
            _signal_tree(pid, number)
        there = signal_group(run.pid, 0 if run.pid in asked else number)
        asked |= {run.pid, *strays}
        return there or bool(strays)

    def kill(self, run: Run, wait: Callable[[], object]) -> None:
        """SIGKILL for all of it, at once and without the event loop; `wait` waits for the command itself.

        Nothing happens if it has been cleared: then its ids may belong to others by now.
        """
        if run.pid not in self._runs:
            return
        self.signal(run, signal.SIGKILL)
        wait()
        self.ended(run)
        # What the command has left is an orphan only now, and so is in its turn what that has left.
        deadline = time.monotonic() + _KILL_PATIENCE_S
        while self.signal(run, signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self.forget(run)

    def reap(self) -> None:
        """Wait for orphans that have ended while a command runs: it may run for hours and leave one every second."""
        for pid in _children_of_this_process() - self._runs.keys():
            _reap(pid)

    async def clear(self, run: Run, grace_s: float) -> None:
        """End whatever an ended command has left behind: SIGTERM, and after `grace_s` SIGKILL."""
        if run.pid not in self._runs:
            return  # it has been cleared: its ids may belong to others by now
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_PATIENCE_S)):
            if await self._gone(run, number, patience_s):
                break
        else:
            log.warning("processes that the command %d has left do not end, not even by SIGKILL", run.pid)
        self.forget(run)

    async def _gone(self, run: Run, number: int, patience_s: float) -> bool:
        """Signal what is left, and what that leaves in its turn, and wait for it to be gone."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while self.signal(run, number):
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def forget(self, run: Run) -> None:
        """Take a command off the record."""
        self._runs.pop(run.pid, None)
        self._ended.discard(run.pid)
        self._asked.pop(run.pid, None)
        self._remove(run.run_id)

    def _strays(self, run: Run) -> Iterator[int]:
        """Orphans of this command outside of its group; orphans that have ended are waited for on the way."""
        others = {other.run_id for other in self._runs.values()} - {run.run_id}
        alone = self._runs.keys() - self._ended <= {run.pid}
        for pid in _children_of_this_process() - self._runs.keys():
            if _reap(pid) or _group_of(pid) == run.pid:
                continue
            owner = _run_id_of(pid)
            # One that has cleared or changed its environment can only be this command's if no other runs.
            if owner == run.run_id or (owner not in others and alone):
                yield pid

    def _write(self, record: dict[str, Any]) -> None:
        path = self._record(record["run_id"])
        part = path.with_suffix(PART_SUFFIX)
        try:
            part.write_text(json.dumps(record))
            part.rename(path)
        except OSError as error:
            log.warning("task %s: its process is not on record: %s", record["task_id"], error.strerror or error)

    def _remove(self, run_id: str) -> None:
        with contextlib.suppress(OSError):  # one that stays is harmless: the next worker finds nobody who belongs to it
            self._record(run_id).unlink(missing_ok=True)

    def _record(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"


def become_subreaper() -> None:
    """Let orphans of commands become children of this process (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def end_abandoned(folders: Iterable[Path], grace_s: float) -> None:
    """End the commands that dead workers have left running, by their records: never by name, never by pid alone."""
    for folder in folders:
        for path in folder.glob("*.json"):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_end_recorded, path, grace_s)
                path.unlink(missing_ok=True)


def _end_recorded(path: Path, grace_s: float) -> None:
    import psutil  # noqa: PLC0415  # only needed when there is somebody to clean up after

    try:
        record: dict[str, Any] = json.loads(path.read_text())
        pid, run_id, started = int(record["pid"]), str(record["run_id"]), float(record["started"])
        if not run_id:
            return
    except (ValueError, KeyError, TypeError):
        return  # written halfway when the machine went down, and the processes with it
    found = [process for process in psutil.process_iter() if _belongs(process, pid, run_id, started)]
    if not found:
        return
    log.warning("task %s: ending %d processes of a worker that was killed", record.get("task_id"), len(found))
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, living = psutil.wait_procs(found, timeout=grace_s)
    for process in living:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(living, timeout=_KILL_PATIENCE_S)


def _belongs(process: Any, pid: int, run_id: str, started: float) -> bool:
    import psutil  # noqa: PLC0415

    try:
        if process.pid == pid and abs(process.create_time() - started) < _SAME_START_S:
            return True
        return process.environ().get(RUN_VARIABLE) == run_id
    except (psutil.Error, OSError):
        return False


def _start_time(pid: int) -> float:
    import psutil  # noqa: PLC0415

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0  # it has ended already


def _children_of_this_process() -> set[int]:
    """Direct children, orphans of commands among them; empty where the system does not tell."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(word) for word in path.read_text().split())
    return found


def _run_id_of(pid: int) -> str:
    """The run id in the environment that a process was started with; empty if there is none to be seen."""
    prefix = f"{RUN_VARIABLE}=".encode()
    with contextlib.suppress(OSError):
        for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if item.startswith(prefix):
                return item[len(prefix) :].decode(errors="replace")
    return ""


def _reap(pid: int) -> bool:
    """Wait for a child if it has ended; whether it had."""
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
    """Signal a process group; whether there is one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody is there who has changed its user
    return True
