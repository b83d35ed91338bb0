"""Keeps the supervisors of a worker's slots (Linux): starts them ahead, uses them again, replaces those that end.

What a supervisor does is in `agentbus_worker.running.supervising.supervisor`. A run sends it one message and gets one
back if the command is over in no time, two or three if not.
"""

import asyncio
import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import Final

from agentbus.bus.retry_until import deadline_after, left_until, retry_until
from agentbus.errors import CommandError
from agentbus_worker.running.process_group import POLL_S
from agentbus_worker.running.spawn import (
    Command,
    ExitEvent,
    not_started,
    standard_input,
    why_not_passed_on,
)
from agentbus_worker.running.supervising.adopted import Adopted, has_ended
from agentbus_worker.running.supervising.link import SupervisorLink
from agentbus_worker.running.supervising.supervisor import KILL_TIMEOUT_S, Tree
from agentbus_worker.running.unended import Unended, unended_of
from agentbus_worker.timers import Timers

_START_TIMEOUT_S: Final = 60.0
"""A supervisor that tells nothing of a start for so long is taken for lost; a program may lie on a slow disk."""
_END_TIMEOUT_S: Final = 20.0
"""The same for the end of a command that SIGKILL can end: the supervisor is stopped, or the machine very busy."""
_CLOSE_TIMEOUT_S: Final = 2.0
_MAX_SUPERVISORS: Final = 3
"""How many are tried for one command: the one that was idle may have been killed, as may the one started for it."""


class _UnreadError(OSError):
    """A supervisor has ended before it read of the command."""


class SupervisedProcess:
    """A running command that a supervisor looks after; see `agentbus_worker.running.process_tree.RunningProcess`."""

    def __init__(self, pool: "Supervisors", link: SupervisorLink) -> None:
        self._pool = pool
        self._link: SupervisorLink | None = link
        self._first = ExitEvent()
        self._cleared = ExitEvent()
        self._code = -signal.SIGKILL
        self._left = True
        self._unread = False
        self._unended: Unended | None = None
        self.end = ExitEvent()
        self.pid = 0
        self.lost = False
        self.refusal: tuple[int, bool] | None = None

    # -- told by the supervisor ---------------------------------------------------------------------------------

    def told(self, message: bytes) -> None:
        """Take a message of the supervisor."""
        kind, *words = message.split()
        first, code, left = map(int, words)
        if kind == b"E":
            self.refusal, self._left = (first, bool(code)), False
            self.end.set()
            self._cleared.set()
        else:
            self.pid = first
        if kind == b"X":
            self._code, self._left = code, bool(left)
            self.end.set()
        if kind in b"XC" and not left:
            self._cleared.set()
        self._first.set()

    def told_of_loss(self) -> None:
        """Note that the supervisor has ended. What is left of the command is, or becomes, a child of this process."""
        self._unread = self._link is not None and self._link.run_is_unread
        self.lost, self._link = True, None
        for event in (self.end, self._cleared, self._first):
            event.set()

    # -- see RunningProcess ------------------------------------------------------------------------------------

    async def started(self, stop: asyncio.Future[None]) -> None:
        """Wait until the command runs, is over, or is to be stopped; raises OSError if it could not be started."""
        deadline, timers = deadline_after(_START_TIMEOUT_S), self._pool.start_timers
        stop.add_done_callback(self._first.wake)
        try:
            while not self._first.is_set and not stop.done():
                if not await self._first.wait(left_until(deadline), timers) and left_until(deadline) <= 0:
                    self._lose()
                    raise TimeoutError(errno.ETIMEDOUT, f"it did not start within {_START_TIMEOUT_S:g} s")
        except BaseException:
            await self.kill()
            raise
        finally:
            stop.remove_done_callback(self._first.wake)
        if self._unread:
            raise _UnreadError(errno.ECHILD, "its supervisor could not be started")
        if self.refusal is not None:
            self.release()
            number, folder = self.refusal
            raise OSError(number, os.strerror(number), "folder" if folder else None)

    def terminate_leader(self) -> None:
        """Send SIGTERM to its first process, which ends the others in its own way."""
        if self._link is not None:
            self._link.send(b"L")

    def terminate(self) -> None:
        """Send SIGTERM to all of it that has not had it."""
        if self._link is not None:
            self._link.send(b"T")

    def finish(self) -> tuple[int, bool]:
        """Return the exit code of the ended command, and whether it has left something behind."""
        if not self._left:
            self.release()
        return self._code, self._left

    @property
    def left_nothing(self) -> bool:
        """Whether it is certain that no process of it is left: its supervisor has seen all of them end."""
        return self._cleared.is_set and not self.lost

    async def clear(self, grace_s: float) -> Unended | None:
        """Wait until nothing of it is left, and after `grace_s` end it by SIGKILL; returns what that does not end.

        What it returns stays with its supervisor until `release` is called.
        """
        deadline = deadline_after(grace_s)
        if not await self._cleared.wait_exit(grace_s) and self._link is not None:
            self._link.send(b"K")
            if not await self._cleared.wait_exit(KILL_TIMEOUT_S):
                self._unended = unended_of(self._tree())
                if self._unended is None and not await self._cleared.wait_exit(_END_TIMEOUT_S):
                    self._lose()
        if self.lost and self._left:
            self._unended = await self._pool.end_adopted(deadline)
        if self._unended is None:
            self._left = False
            self.release()
        return self._unended

    async def kill(self) -> None:
        """Send SIGKILL to all of it, and wait a bounded time for its end. Nothing if it was cleared already."""
        if self._left:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * KILL_TIMEOUT_S):
                    await self.clear(0)
        self.release()

    def is_gone(self) -> bool:
        """Whether what did not end by SIGKILL has ended since. Nothing is waited for."""
        if not self.lost:
            return self._cleared.is_set
        return not set(self._unended.pids if self._unended else ()) & set(self._pool.adopted.pids())

    def release(self) -> None:
        """Give the supervisor back. One that has something left goes on with ending it, and ends itself."""
        self._left = False
        if (link := self._link) is not None:
            self._link = None
            self._pool.give_back(link, reusable=self._cleared.is_set)

    def _tree(self) -> list[int]:
        """All processes of the run, with its supervisor: one that hangs ends nothing."""
        return [self._link.pid, *Tree(set(), self._link.pid).pids()] if self._link is not None else []

    def _lose(self) -> None:
        if self._link is not None:
            self._link.lose()


class Supervisors:
    """The supervisors of one worker: one for each slot, and one more for each ended command that is being cleared."""

    def __init__(self, count: int, worker: str) -> None:
        self._count = count
        self._worker = worker
        self._links: dict[int, SupervisorLink] = {}
        self._idle: list[SupervisorLink] = []
        self._pids: set[int] = set()  # also of those that are about to end
        self._lost: set[int] = set()  # of these, those that were killed
        self.adopted = Adopted(self._pids)
        self.start_timers = Timers()

    def start_ahead(self) -> None:
        """Have a supervisor ready for the next command, so that no command waits for one to start."""
        if not self._idle and len(self._links) < self._count:
            with contextlib.suppress(OSError):  # told when a command needs it
                self._idle.append(self._new())

    async def start(
        self, command: Command, grace_s: float, outputs: tuple[int, int], tmp: Path, stop: asyncio.Future[None]
    ) -> SupervisedProcess:
        """Start a command, and wait until it runs, is over, or is to be stopped.

        Raises:
            CommandError: it could not be started; the message says why.
        """
        try:
            message = _message(command, grace_s)
            with standard_input(command.stdin, tmp) as stdin:
                return await self._started(message, [*outputs] if stdin is None else [*outputs, stdin], stop)
        except OSError as error:
            if error.filename == "folder":
                error.filename = str(command.cwd)
            raise not_started(command, error) from None
        except ValueError as error:
            raise CommandError(why_not_passed_on(command, error)) from None

    async def _started(self, message: bytes, files: list[int], stop: asyncio.Future[None]) -> SupervisedProcess:
        """Give the command to one supervisor after the other until one has read it; see `start`."""
        tried = 0
        while True:
            process = self._run(message, files)
            self.start_ahead()
            try:
                await process.started(stop)
            except _UnreadError:
                tried += 1
                if tried == _MAX_SUPERVISORS:
                    raise
            else:
                return process

    def _run(self, message: bytes, files: list[int]) -> SupervisedProcess:
        """Give the command to a supervisor. One that has ended meanwhile is passed over."""
        while True:
            link = self._idle.pop() if self._idle else self._new()
            process = link.process = SupervisedProcess(self, link)
            try:
                link.run(message, files)
            except (BrokenPipeError, ConnectionResetError):
                link.lose()
            except OSError:
                link.process = None
                self._idle.append(link)
                raise
            else:
                return process

    def _new(self) -> SupervisorLink:
        link = SupervisorLink(self._worker, self.forget)
        self._links[link.pid] = link
        self._pids.add(link.pid)
        return link

    def give_back(self, link: SupervisorLink, *, reusable: bool) -> None:
        """Take a supervisor back for the next run; it is ended if it has something left, or if there are enough."""
        link.process = None
        if reusable and len(self._links) <= self._count:
            self._idle.append(link)
        else:
            link.close()
            self._links.pop(link.pid, None)  # not there any more once all have been closed

    def forget(self, link: SupervisorLink) -> None:
        """Remove a supervisor that was killed."""
        self._links.pop(link.pid, None)
        self._lost.add(link.pid)
        if link in self._idle:
            self._idle.remove(link)

    async def end_adopted(self, deadline: float) -> Unended | None:
        """End what a supervisor that was killed has left: SIGTERM, and after the deadline SIGKILL.

        Returns what that does not end.
        """
        async for _ in retry_until(deadline_after(KILL_TIMEOUT_S), POLL_S):
            self._reap()
            if not self._lost:
                break  # until it is reaped, what was below it may not be a child of this process yet
        return await self.adopted.end(deadline)

    def _reap(self) -> None:
        """Reap the supervisors that have ended."""
        ended = {pid for pid in self._pids - self._links.keys() if has_ended(pid)}
        self._pids -= ended
        self._lost -= ended

    def patrol(self) -> None:
        """Let a stopped supervisor go on, reap what has ended, and kill orphans that no run looks after."""
        self._reap()
        for pid in self._links:
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is not None:
                    os.kill(pid, signal.SIGCONT)
        self.adopted.patrol()

    def close(self) -> None:
        """Let all supervisors end, and with them what is left; `wait_closed` waits for it."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._idle.clear()

    def wait_closed(self) -> None:
        """Wait a bounded time until they have ended, and kill those that have not. It blocks: see `Children.close`."""
        deadline = time.monotonic() + _CLOSE_TIMEOUT_S
        while self._pids and time.monotonic() < deadline:
            self._reap()
            time.sleep(POLL_S / 4)
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._pids.clear()  # from here on they are children as what they have left is
        self.adopted.kill()


def _message(command: Command, grace_s: float) -> bytes:
    """The message that runs a command; raises ValueError if a word of it cannot be passed on."""
    words = [
        "R",
        f"{grace_s:f}",
        "0" if command.stdin is None else "1",
        "" if command.cwd is None else str(command.cwd),
        str(len(command.argv)),
        *command.argv,
        *map("=".join, command.env.items()),
    ]
    message = "\0".join(words)
    if message.count("\0") >= len(words):
        raise ValueError("embedded null byte")
    return os.fsencode(message)
