"""The connection of a worker to the supervisor of one slot: what is to be run goes there, what is told comes back."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Final, Protocol

from agentbus_worker.running.spawn import start_supervisor
from agentbus_worker.running.supervising.supervisor import MAX_PACKET_BYTES, READY

_INLINE_BYTES: Final = MAX_PACKET_BYTES // 2


class _Supervised(Protocol):
    """The run that a supervisor is busy with."""

    def told(self, message: bytes) -> None:
        """Take a message of the supervisor."""

    def told_of_loss(self) -> None:
        """Note that the supervisor has ended."""


class SupervisorLink:
    """The connection to one supervisor."""

    def __init__(self, worker: str, forget: Callable[["SupervisorLink"], None]) -> None:
        """Start a supervisor for the worker with this token, and call `forget` once it has ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.pid = start_supervisor(worker, theirs.fileno())
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        self._forget = forget
        self._socket = ours
        self.process: _Supervised | None = None
        self._ready = self._reset = self._run_is_last = False
        asyncio.get_running_loop().add_reader(ours.fileno(), self.receive)

    @property
    def run_is_unread(self) -> bool:
        """Whether a supervisor that has ended did not read the message that runs the command: nothing was started.

        A socket that is closed with messages left in it resets the connection, and messages are read in their order.
        """
        return not self._ready or (self._reset and self._run_is_last)

    def run(self, message: bytes, files: list[int]) -> None:
        """Send the message that runs a command, with its open files; raises OSError if that is refused."""
        self._run_is_last = True
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
        try:
            self._socket.send(message)
        except ConnectionResetError:
            self._reset = True
        except OSError:
            return
        else:
            self._run_is_last = False

    def receive(self) -> None:
        """Take the next message, or the end of the supervisor."""
        try:
            message = self._socket.recv(1024)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self._reset = True
            return  # what it has told before is still to be received
        except OSError:
            message = b""
        if not message:
            self.lose()
        elif message == READY:
            self._ready = True
        elif self.process is not None:
            self.process.told(message)

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
        self._forget(self)
        if self.process is not None:
            self.process.told_of_loss()
