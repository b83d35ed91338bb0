"""Ends the processes that a command has left which killed its supervisor: they become children of the worker.

The worker is a child subreaper, too. Its children are supervisors, its own git commands, and what belonged to a
supervisor that was killed.
"""

import os
import time

from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.git.running import RUNNING
from agentbus_worker.running.process_group import POLL_S
from agentbus_worker.running.supervising.supervisor import KILL_TIMEOUT_S, Tree, children_of
from agentbus_worker.running.unended import Unended, unended_of


class _Own(set[int]):
    """The children that the worker has started itself: supervisors, and git commands, both as they are now."""

    def __init__(self, supervisors: set[int]) -> None:
        super().__init__()
        self._supervisors = supervisors

    def __contains__(self, pid: object) -> bool:
        return pid in self._supervisors or pid in RUNNING


class Adopted:
    """All children of this process, and their descendants, except for those that it has started itself, and theirs."""

    def __init__(self, supervisors: set[int]) -> None:
        self._own = _Own(supervisors)
        self._tree = Tree(self._own)
        self._ending = 0
        self._seen: set[int] = set()

    async def end(self, deadline: float) -> Unended | None:
        """End all of them: SIGTERM, and after the deadline SIGKILL. Returns what that does not end."""
        self._ending += 1
        try:
            self._tree.ask()
            async for _ in retry_until(deadline, POLL_S):
                if not self._reap():
                    return None
                self._tree.ask_orphans()
            async for _ in retry_until(deadline_after(KILL_TIMEOUT_S), POLL_S):
                self._tree.kill()
                if not self._reap():
                    return None
            return unended_of(self._tree.pids())
        finally:
            self._ending -= 1

    def pids(self) -> list[int]:
        """List all of them."""
        return self._tree.pids()

    def kill(self) -> None:
        """Send SIGKILL to all of them, and wait a bounded time for their end. It blocks."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while self._reap() and time.monotonic() < deadline:
            self._tree.kill()
            time.sleep(POLL_S)

    def patrol(self) -> None:
        """Reap what has ended, and kill what no run ends. Called every few seconds."""
        left = self._reap()
        if left & self._seen and not self._ending:  # twice: a run may be about to hear of the loss
            self._tree.kill()
        self._seen = left

    def _reap(self) -> set[int]:
        """Reap those that have ended; returns those that have not."""
        return {pid for pid in children_of(os.getpid()) if pid not in self._own and not has_ended(pid)}


def has_ended(pid: int) -> bool:
    """Reap a child if it has ended; returns whether it had."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
