"""Runs a command where the system has no supervisors: its process group is all that is known of it.

So it is on systems without child subreapers, on macOS. A process that has left the group is not found there.
"""

import contextlib
import logging
import math
import os
import signal
import time
from pathlib import Path
from typing import Final

from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus_worker.running.spawn import Command, ExitEvent, start, watch_exit
from agentbus_worker.running.supervisor import KILL_TIMEOUT_S

log = logging.getLogger("agentbus.worker")

POLL_S: Final = 0.02


class GroupProcess:
    """A running command and its process group; see `agentbus_worker.running.process_tree.RunningProcess`."""

    lost = False

    def __init__(self, command: Command, stdout: int, stderr: int, tmp: Path) -> None:
        """Start it.

        Raises:
            CommandError: it could not be started.
        """
        self._process = start(command, stdout, stderr, tmp)
        self.pid = self._process.pid
        self.end = ExitEvent()
        self._stop_watching = watch_exit(self._process, self.end)
        self._asked = self._cleared = False

    def terminate(self) -> None:
        """Send SIGTERM to the group, once: some programs quit uncleanly on a second one."""
        if not self._asked:
            self._asked = True
            signal_group(self.pid, signal.SIGTERM)

    async def kill_and_wait(self) -> None:
        """Send SIGKILL to the group, and wait for the end of the command."""
        signal_group(self.pid, signal.SIGKILL)
        await self.end.wait_exit(math.inf)

    def finish(self) -> tuple[int, bool]:
        """Reap the ended command; returns its exit code, and whether it has left something behind."""
        self._stop_watching()
        # It is a zombie until it is waited for: its group id cannot have been given to another process.
        self.terminate()
        code = self._process.wait()
        self._cleared = not signal_group(self.pid, 0)
        return code, not self._cleared

    async def clean_up(self, grace_s: float) -> None:
        """Wait for what an ended command has left behind, and after `grace_s` end it by SIGKILL."""
        for number, timeout_s in ((0, grace_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
            async for _ in retry_until(deadline_after(timeout_s), POLL_S):
                if not signal_group(self.pid, number):
                    self._cleared = True
                    return
        log.warning("processes that the command %d has left do not end, not even by SIGKILL", self.pid)
        self._cleared = True

    def kill(self) -> None:
        """Send SIGKILL to all of it, at once and without the event loop. Nothing if it was cleared already."""
        if self._cleared:
            return  # its ids may belong to other processes by now
        self._stop_watching()
        signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while signal_group(self.pid, signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._cleared = True


def signal_group(group: int, number: int) -> bool:
    """Signal a process group; returns whether there is one."""
    with contextlib.suppress(PermissionError):  # the process is there, and has changed its user
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return False
    return True
