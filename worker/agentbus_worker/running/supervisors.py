"""Keeps the supervisors of a worker's slots (Linux): starts them ahead, uses them again, replaces those that end.

What a supervisor does is in `agentbus_worker.running.supervisor`. A run sends it one message and gets one back if the
command is over in no time, two or three if not.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agentbus.bus.retry_until import deadline_after
from agentbus.errors import CommandError
from agentbus_worker.running.adopted import Adopted, has_ended
from agentbus_worker.running.process_group import POLL_S
from agentbus_worker.running.spawn import (
    Command,
    ExitEvent,
    standard_input,
    start_supervisor,
    why_not_passed_on,
    why_not_started,
)
from agentbus_worker.running.supervisor import KILL_TIMEOUT_S, MAX_PACKET_BYTES

log = logging.getLogger("agentbus.worker")

_INLINE_BYTES: Final = MAX_PACKET_BYTES // 2
_START_TIMEOUT_S: Final = 60.0
"""A supervisor that tells nothing of a start for so long is taken for lost; a program may lie on a slow disk."""
_END_TIMEOUT_S: Final = 20.0
"""The same for the end of a command after SIGKILL: it is stopped, or the command cannot be killed."""
_CLOSE_TIMEOUT_S: Final = 2.0


class SupervisedProcess:
    """A running command that a supervisor looks after; see `agentbus_worker.running.process_tree.RunningProcess`."""

    def __init__(self, pool: "Supervisors", link: "_Link") -> None:
        self._pool = pool
        self._link: _Link | None = link
        self._first = ExitEvent()
        self._cleared = ExitEvent()
        self._code = -signal.SIGKILL
        self._left = True
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
            self.refusal = first, bool(code)
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
        self.lost, self._link = True, None
        for event in (self.end, self._cleared, self._first):
            event.set()

    # -- see RunningProcess ------------------------------------------------------------------------------------

    async def started(self) -> None:
        """Wait until the command runs, or is over; raises OSError if it could not be started."""
        try:
            if not await self._first.wait_exit(_START_TIMEOUT_S):
                self._lose()
        except BaseException:
            self.kill()
            raise
        if self.refusal is not None:
            self._release()
            number, folder = self.refusal
            raise OSError(number, os.strerror(number), "folder" if folder else None)

    def terminate(self) -> None:
        """Send SIGTERM to all of it, once."""
        if self._link is not None:
            self._link.send(b"T")

    async def kill_and_wait(self) -> None:
        """Send SIGKILL to all of it, and wait for the end of the command."""
        if self._link is not None:
            self._link.send(b"K")
        if not await self.end.wait_exit(_END_TIMEOUT_S):
            self._lose()

    def finish(self) -> tuple[int, bool]:
        """Return the exit code of the ended command, and whether it has left something behind."""
        if not self._left:
            self._release()
        return self._code, self._left

    async def clean_up(self, grace_s: float) -> None:
        """Wait for what an ended command has left behind, and after `grace_s` end it by SIGKILL."""
        deadline = deadline_after(grace_s)
        if not await self._cleared.wait_exit(grace_s) and self._link is not None:
            self._link.send(b"K")
            await self._cleared.wait_exit(2 * KILL_TIMEOUT_S)
        if self.lost:
            await self._pool.adopted.end(deadline)
        elif not self._cleared.is_set:
            log.warning("processes that the command %d has left do not end, not even by SIGKILL", self.pid)
        self._left = False
        self._release()

    def kill(self) -> None:
        """Send SIGKILL to all of it, at once and without the event loop. Nothing if it was cleared already."""
        link = self._link
        if link is not None and not self._cleared.is_set:
            link.send(b"K")
            link.receive_until(lambda: self._cleared.is_set, 2 * KILL_TIMEOUT_S)
        if self.lost and self._left:
            self._pool.adopted.kill()
        self._left = False
        self._release()

    def _lose(self) -> None:
        if self._link is not None:
            self._link.lose()

    def _release(self) -> None:
        """Give the supervisor back, if it has nothing left to end."""
        if (link := self._link) is not None:
            self._link = None
            self._pool.give_back(link, reusable=self._cleared.is_set)


class _Link:
    """The connection to one supervisor."""

    def __init__(self, pool: "Supervisors", worker: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.pid = start_supervisor(worker, theirs.fileno())
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        self._pool = pool
        self._socket = ours
        self.process: SupervisedProcess | None = None
        asyncio.get_running_loop().add_reader(ours.fileno(), self.receive)

    def run(self, message: bytes, files: list[int]) -> None:
        """Send the message that runs a command, with its open files; raises OSError if that is refused."""
        if len(message) <= _INLINE_BYTES:
            socket.send_fds(self._socket, [message], files)
            return
        file = os.memfd_create("agentbus command")
        try:
            with os.fdopen(file, "wb", closefd=False) as out:
                out.write(message)
            socket.send_fds(self._socket, [b"F"], [*files, file])
        finally:
            os.close(file)

    def send(self, message: bytes) -> None:
        """Send a message. If it cannot be sent, the supervisor's end is received soon, or nothing within a bound."""
        with contextlib.suppress(OSError):
            self._socket.send(message)

    def receive(self) -> None:
        """Take the next message, or the end of the supervisor."""
        try:
            message = self._socket.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self.lose()
        elif self.process is not None:
            self.process.told(message)

    def receive_until(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Take messages without the event loop until one has the wanted effect."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not done() and (left_s := deadline - time.monotonic()) > 0:
            if poll.poll(left_s * 1000):
                self.receive()

    def close(self) -> None:
        """Let the supervisor end whatever it has left to end, and itself."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()

    def lose(self) -> None:
        """End a supervisor that has ended, or tells nothing any more, and let another one take its place."""
        self.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._pool.forget(self)
        if self.process is not None:
            self.process.told_of_loss()


class Supervisors:
    """The supervisors of one worker: one for each slot, and one more for each ended command that is being cleared."""

    def __init__(self, count: int, worker: str) -> None:
        self._count = count
        self._worker = worker
        self._links: dict[int, _Link] = {}
        self._idle: list[_Link] = []
        self._pids: set[int] = set()  # also of those that are about to end
        self.adopted = Adopted(self._pids)

    def start_ahead(self) -> None:
        """Have a supervisor ready for the next command, so that no command waits for one to start."""
        if not self._idle and len(self._links) < self._count:
            with contextlib.suppress(OSError):  # told when a command needs it
                self._idle.append(self._new())

    async def start(self, command: Command, grace_s: float, outputs: tuple[int, int], tmp: Path) -> SupervisedProcess:
        """Start a command, and wait until it runs or is over.

        Raises:
            CommandError: it could not be started; the message says why.
        """
        try:
            message = _message(command, grace_s)
            with standard_input(command.stdin, tmp) as stdin:
                process = self._run(message, [*outputs] if stdin is None else [*outputs, stdin])
            self.start_ahead()
            await process.started()
        except OSError as error:
            if error.filename == "folder":
                error.filename = str(command.cwd)
            raise CommandError(why_not_started(command, error)) from None
        except ValueError as error:
            raise CommandError(why_not_passed_on(command, error)) from None
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

    def _new(self) -> _Link:
        link = _Link(self, self._worker)
        self._links[link.pid] = link
        self._pids.add(link.pid)
        return link

    def give_back(self, link: _Link, *, reusable: bool) -> None:
        """Take a supervisor back for the next run; it is ended if it has something left, or if there are enough."""
        link.process = None
        if reusable and len(self._links) <= self._count:
            self._idle.append(link)
        else:
            link.close()
            del self._links[link.pid]

    def forget(self, link: _Link) -> None:
        """Remove a supervisor that has ended and was waited for."""
        self._links.pop(link.pid, None)
        self._pids.discard(link.pid)
        if link in self._idle:
            self._idle.remove(link)

    def patrol(self) -> None:
        """Let a stopped supervisor go on, reap what has ended, and kill orphans that no run looks after."""
        for pid in self._pids - self._links.keys():
            if has_ended(pid):
                self._pids.discard(pid)
        for pid in self._links:
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is not None:
                    os.kill(pid, signal.SIGCONT)
        self.adopted.patrol()

    def close(self) -> None:
        """End all supervisors, and with them what is left."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._idle.clear()
        deadline = time.monotonic() + _CLOSE_TIMEOUT_S
        while self._pids and time.monotonic() < deadline:
            self._pids -= {pid for pid in self._pids if has_ended(pid)}
            time.sleep(POLL_S / 4)
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._pids.clear()
        self.adopted.kill()


def _message(command: Command, grace_s: float) -> bytes:
    """The message that runs a command; raises ValueError if a word of it cannot be passed on."""
    argv = [os.fsencode(word) for word in command.argv]
    environment = [os.fsencode(f"{name}={value}") for name, value in command.env.items()]
    cwd = b"" if command.cwd is None else os.fsencode(command.cwd)
    if any(b"\0" in word for word in (*argv, *environment, cwd)):
        raise ValueError("embedded null byte")
    head = [b"R", b"%f" % grace_s, b"0" if command.stdin is None else b"1", cwd, b"%d" % len(argv)]
    return b"\0".join([*head, *argv, *environment])
