"""Runs an agent command in a session of its own, bounds its output, and ends all processes that it started.

It waits for the process and not for its pipes, so a grandchild that keeps them open delays nothing.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import sys
import termios
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias

from agentbus.config.private_files import open_private
from agentbus.errors import CommandError
from agentbus_worker.running.frames import Frames
from agentbus_worker.running.process_tree import Children, Run, RunningProcess
from agentbus_worker.running.spawn import Command, ExitEvent, why_not_started

_CHUNK: Final = 65_536
_STDERR_TAIL: Final = 8_192
_RECHECK_S: Final = 0.02
_QUICK_S: Final = 0.02
"""A command that ends within this time needs no reader while it runs, and no record on disk."""

Reason: TypeAlias = Literal["exited", "timeout", "idle", "stopped", "unsupervised"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a command: its run time, and how much of its output is kept in memory and on disk."""

    timeout_s: float
    grace_s: float
    keep_bytes: int
    spill_bytes: int = 0
    idle_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """The output of one pipe: its first bytes, its last bytes, and its size.

    `spilled` is a file with all of it, if it is larger than `head` and could be written. `folded` is all of it without
    the frames of progress bars, if these are most of it.
    """

    head: bytes
    tail: bytes
    size: int
    sha256: str
    spilled: Path | None = None
    folded: bytes | None = None

    @property
    def truncated(self) -> bool:
        """Whether there was more than `head` holds."""
        return self.size > len(self.head)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        reason: `exited` by itself, ended by the `timeout` or the `idle` limit, `stopped` by the caller, or
            `unsupervised` and ended, because its supervisor was killed.
        code: the exit code, or the negative number of the signal that ended it.
    """

    reason: Reason
    code: int
    stdout: Output
    stderr: Output
    duration_s: float


class _OutputPipe:
    """Reads a pipe without blocking. It keeps the beginning in memory, and spills longer output to a file."""

    def __init__(self, keep_bytes: int, spill: tuple[Path, str] | None = None, spill_bytes: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self.read_end, self.write_end = os.pipe()
        self._open = self._write_open = True
        self._keep_bytes = keep_bytes
        self._spill_to = spill
        self._spill_bytes = spill_bytes
        self._spill_path: Path | None = None
        self._spill: BinaryIO | None = None
        self._head = bytearray()
        self._tail = bytearray()
        self._frames = Frames(keep_bytes)
        self._size = 0
        self._hash = hashlib.sha256()
        self._watching = self._finished = False
        self.last_read = self._loop.time()

    def watch(self) -> None:
        """Start to read. Until then output stays in the pipe, and a process that fills it blocks."""
        if self._open:
            self._watching = True
            os.set_blocking(self.read_end, False)  # before this, the pipe is read only when it has data
            self._loop.add_reader(self.read_end, self._read)

    def _read(self) -> bool:
        """Read a chunk; returns False if the pipe has no more data now."""
        try:
            chunk = os.read(self.read_end, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._stop_reading()
            return False
        if self._finished:
            return True
        self.last_read = self._loop.time()
        self._hash.update(chunk)
        self._frames.feed(chunk, self._head)
        room = self._keep_bytes - len(self._head)
        if len(chunk) > room and self._spill_to is not None:
            self._spill_chunk(chunk)
        self._size += len(chunk)
        self._head += chunk[: max(0, room)]
        self._tail = (self._tail + chunk)[-_STDERR_TAIL:]
        return True

    def _spill_chunk(self, chunk: bytes) -> None:
        """Write a chunk to the file. Delete the file if the output is too large or the disk refuses it."""
        try:
            if self._spill is None:
                assert self._spill_to is not None, "checked by the caller"
                folder, name = self._spill_to
                self._spill_path = folder / name
                self._spill = open_private(self._spill_path, truncate=True)
                self._spill.write(self._head)
            if self._size + len(chunk) > self._spill_bytes:
                self._drop_spill()
            else:
                self._spill.write(chunk)
        except OSError:
            self._drop_spill()

    def _drop_spill(self) -> None:
        if self._spill is not None:
            with contextlib.suppress(OSError):
                self._spill.close()
            if self._spill_path is not None:
                with contextlib.suppress(OSError):
                    self._spill_path.unlink(missing_ok=True)
        self._spill = self._spill_path = self._spill_to = None

    def finish(self) -> Output:
        """Read what the ended command left in the pipe, and return the output.

        Later output of its children is discarded until the pipe is closed: without a reader, a child that gets SIGTERM
        would be killed by SIGPIPE during its clean-up.
        """
        end = self._size + (_bytes_in(self.read_end) if self._open else 0)
        while self._open and self._size < end and self._read():
            pass  # no further, because a child that still writes would never let this end
        if self._spill is not None:
            try:
                self._spill.close()
            except OSError:
                self._drop_spill()
        spilled = self._spill_path if self._spill is not None else None
        self._finished = True
        head, tail, sha256 = bytes(self._head), bytes(self._tail), self._hash.hexdigest()
        return Output(head, tail, self._size, sha256, spilled, self._frames.result())

    def close_write_end(self) -> None:
        """Close our copy of the write end, so that only the command and its children have it."""
        if self._write_open:
            self._write_open = False
            os.close(self.write_end)

    def close(self) -> None:
        """Stop reading, and delete the spilled output."""
        self._stop_reading()
        self.close_write_end()
        self._drop_spill()

    def _stop_reading(self) -> None:
        if self._open:
            self._open = False
            if self._watching:
                self._loop.remove_reader(self.read_end)
            os.close(self.read_end)


class Child:
    """A running command; see `running`."""

    def __init__(
        self,
        process: RunningProcess,
        run: Run,
        task_id: str,
        limits: Limits,
        pipes: tuple[_OutputPipe, _OutputPipe],
        started: float,
    ) -> None:
        self._process = process
        self._run = run
        self._task_id = task_id
        self._limits = limits
        self._out, self._err = pipes
        self._started = started
        self.clean_up_task: asyncio.Task[None] | None = None

    async def ended(
        self,
        stop: asyncio.Future[None],
        children: Children,
        *,
        stop_grace_s: Callable[[], float] | None = None,
        on_still_running: Callable[[], None] = lambda: None,
    ) -> Exit:
        """Wait until the command has exited, or end it at a limit or at `stop`; begin to end what it left behind.

        Args:
            stop: the command is ended when this future is done.
            children: writes the record of the command.
            stop_grace_s: returns the time between SIGTERM and SIGKILL after `stop`; default: that of the limits.
            on_still_running: called once if the command still runs after 20 ms.
        """
        loop, process = asyncio.get_running_loop(), self._process
        grace_left_s = self._limits.grace_s
        reason: Reason = "exited"
        if not await process.end.wait(min(self._started + _QUICK_S, self._deadline) - loop.time()):
            on_still_running()
            self._out.watch()
            self._err.watch()
            children.record(self._run, self._task_id)
            reason = await self._wait_for_end(process.end, stop)
        if reason != "exited":
            grace_s = stop_grace_s() if reason == "stopped" and stop_grace_s else self._limits.grace_s
            terminated_at = loop.time()
            process.terminate()
            if not await process.end.wait_exit(grace_s):
                await process.kill_and_wait()
            # The children of the command got SIGTERM at the same time; they have the rest of its grace period.
            grace_left_s = max(0.0, terminated_at + grace_s - loop.time())
        elif process.lost:
            reason = "unsupervised"
        code, left = process.finish()
        duration_s = loop.time() - self._started
        if left:
            self.clean_up_task = asyncio.create_task(process.clean_up(grace_left_s))
        return Exit(reason, code, self._out.finish(), self._err.finish(), duration_s)

    @property
    def _deadline(self) -> float:
        return self._started + self._limits.timeout_s

    async def _wait_for_end(self, end: ExitEvent, stop: asyncio.Future[None]) -> Reason:
        """Wait for the exit, a limit or `stop`. Output restarts the idle limit, so it is checked again when it is due.

        A limit that seems to have passed is checked twice: after this process was paused (SIGSTOP, a suspended
        machine), its timers run before it notices the exit and the output of a command that was in time.
        """
        loop, limits, deadline = asyncio.get_running_loop(), self._limits, self._deadline
        stop.add_done_callback(end.wake)
        rechecked = False
        try:
            while not stop.done():
                idle_at = self._last_output() + limits.idle_timeout_s if limits.idle_timeout_s else deadline
                left_s = min(deadline, idle_at) - loop.time()
                if left_s > 0:
                    rechecked = False
                elif rechecked:
                    return "timeout" if deadline <= idle_at else "idle"
                else:
                    rechecked, left_s = True, _RECHECK_S
                if await end.wait(left_s):
                    return "exited"
            return "stopped"
        finally:
            stop.remove_done_callback(end.wake)

    def _last_output(self) -> float:
        return max(self._started, self._out.last_read, self._err.last_read)


@asynccontextmanager
async def running(command: Command, limits: Limits, children: Children, tmp: Path) -> AsyncGenerator[Child]:
    """Start a command, and end all its processes when the block is left.

    In the block, `Child.ended()` waits for it. Processes that it leaves behind are ended while the block continues. If
    an error or a cancellation leaves the block early, all processes are killed at once.

    Args:
        tmp: a private folder for the standard input and for spilled output.

    Raises:
        CommandError: the command could not be started.
    """
    with _pipes(command, limits, tmp) as (out, err):
        started = asyncio.get_running_loop().time()
        try:
            process = await children.start(command, limits.grace_s, (out.write_end, err.write_end), tmp)
        finally:
            out.close_write_end()
            err.close_write_end()
        run = Run(process.pid, command.run_id)
        children.started(run)
        child = Child(process, run, command.task_id, limits, (out, err), started)
        try:
            yield child
            if child.clean_up_task is not None:
                await child.clean_up_task
        finally:
            if child.clean_up_task is not None:
                child.clean_up_task.cancel()
            process.kill()
            children.forget(run)


@contextlib.contextmanager
def _pipes(command: Command, limits: Limits, tmp: Path) -> Generator[tuple[_OutputPipe, _OutputPipe]]:
    """Open the pipes for standard output and standard error, and close them at the end of the block."""
    spill = (tmp, f"{command.run_id}.out") if limits.spill_bytes > limits.keep_bytes else None
    pipes: list[_OutputPipe] = []
    try:
        try:
            pipes.append(_OutputPipe(limits.keep_bytes, spill, limits.spill_bytes))
            pipes.append(_OutputPipe(_STDERR_TAIL))
        except OSError as error:
            raise CommandError(why_not_started(command, error)) from None
        yield pipes[0], pipes[1]
    finally:
        for pipe in pipes:
            pipe.close()


def _bytes_in(pipe: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
