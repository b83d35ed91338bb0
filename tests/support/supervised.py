"""Looks at the supervisors of a worker, and kills them together with it (Linux)."""

import contextlib
import os
import signal
from pathlib import Path

from agentbus_worker.running.supervising import supervisor
from support.harness import Process, alive

KILL_WORKER = 'kill -9 $(cut -d " " -f 4 /proc/$PPID/stat 2>/dev/null || echo $PPID)'
"""For a shell: a command kills its worker, which is the parent of its supervisor, or its own where there is none."""


def is_supervisor(pid: int) -> bool:
    """Whether a process is a supervisor that lives."""
    with contextlib.suppress(OSError):
        return supervisor.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and alive(pid)
    return False


def supervisors_of(pid: int) -> list[int]:
    """The supervisors of a worker that lives."""
    return [child for child in supervisor.children_of(pid) if is_supervisor(child)]


def kill_with_supervisors(worker: Process) -> None:
    """Kill a worker so that its supervisors cannot end what it ran, nor it what they ran."""
    os.kill(worker.pid, signal.SIGSTOP)
    for pid in supervisors_of(worker.pid):
        os.kill(pid, signal.SIGKILL)
    worker.kill()
