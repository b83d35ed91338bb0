"""Runs a command where the system has no supervisors: its process group is all that is known of it.

So it is on systems without child subreapers, on macOS. A process that has left the group is not found there.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus_worker.running.spawn import Command, ExitEvent, start, watch_exit
from agentbus_worker.running.supervising.supervisor import KILL_TIMEOUT_S
from agentbus_worker.running.unended import Unended, unended_of

POLL_S: Final = 0.02
_SLOW_S: Final = 20.0
"""How long the end after SIGKILL is waited for where nothing is known that keeps it from ending: a busy machine."""


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

    def terminate_leader(self) -> None:
        """Send SIGTERM to its first process, which ends the others in its own way."""
        if not self._cleared and not self._process.has_ended():
            os.kill(self.pid, signal.SIGTERM)

    def terminate(self) -> None:
        """Send SIGTERM to the group, once: some programs quit uncleanly on a second one."""
        if not self._asked:
            self._asked = True
            signal_group(self.pid, signal.SIGTERM)

    def finish(self) -> tuple[int, bool]:
        """Reap the ended command; returns its exit code, and whether it has left something behind."""
        self._stop_watching()
        # It is a zombie until it is waited for: its group id cannot have been given to another process.
        if not self._cleared:
            self.terminate()
        code = self._process.wait()
        self._cleared = self._cleared or not signal_group(self.pid, 0)
        return code, not self._cleared

    @property
    def left_nothing(self) -> bool:
        """Whether it is certain that no process of it is left: never, as one that has left its group is not seen."""
        return False

    async def clear(self, grace_s: float) -> Unended | None:
        """Wait until nothing of it is left, and after `grace_s` end it by SIGKILL; returns what that does not end."""
        for number, timeout_s in ((0, grace_s), (signal.SIGKILL, KILL_TIMEOUT_S), (signal.SIGKILL, _SLOW_S)):
            async for _ in retry_until(deadline_after(timeout_s), POLL_S):
                if self._is_cleared(number):
                    return None
            if number == signal.SIGKILL and (unended := unended_of(_members(self.pid))) is not None:
                return unended
        return Unended((self.pid,), "does not end by SIGKILL")

    async def kill(self) -> None:
        """Send SIGKILL to all of it, and wait a bounded time for its end. Nothing if it was cleared already."""
        if not self._cleared:  # else its ids may belong to other processes by now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * KILL_TIMEOUT_S):
                    await self.clear(0)
        self.release()

    def is_gone(self) -> bool:
        """Whether what did not end by SIGKILL has ended since. Nothing is waited for."""
        return self._is_cleared(0)

    def release(self) -> None:
        """Look after it no more."""
        self._stop_watching()
        self._cleared = True

    def _is_cleared(self, number: int) -> bool:
        """Signal the group; returns whether there is none any more, the command reaped included."""
        if not self._cleared:
            if self._process.has_ended():
                self._process.wait()
            self._cleared = not signal_group(self.pid, number)
        return self._cleared


def _members(group: int) -> list[int]:
    import psutil  # noqa: PLC0415  # only for a group that does not end

    found: list[int] = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):  # it has ended
            found += [pid] if os.getpgid(pid) == group else []
    return found


def signal_group(group: int, number: int) -> bool:
    """Signal a process group; returns whether there is one."""
    with contextlib.suppress(PermissionError):  # the process is there, and has changed its user
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return False
    return True
