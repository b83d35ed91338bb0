"""Running an agent command: a child in a session of its own, with its output bounded and its whole group ended.

The only module of the worker that starts processes. It waits for the process and not for its pipes: a grandchild that
keeps them open delays nothing.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agentbus.errors import AgentBusError

MAX_ARGUMENT_BYTES: Final = 131_071
"""Linux takes no single argument longer than this (MAX_ARG_STRLEN, with its closing zero byte)."""
_CHUNK: Final = 65_536
_STDERR_TAIL: Final = 8_192
_POLL_S: Final = 0.02
_KILL_PATIENCE_S: Final = (
    1.0  # a killed process that nobody reaps stays in its group as a zombie; that is no reason to wait
)


class CommandError(AgentBusError):
    """The command could not be started; the message says why."""


@dataclass(frozen=True, slots=True)
class Output:
    """What came out of one pipe: the first bytes up to the bound, the last few, and the measure of the whole."""

    head: bytes
    tail: bytes
    size: int
    sha256: str

    @property
    def truncated(self) -> bool:
        """Whether there was more than `head` holds."""
        return self.size > len(self.head)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        reason: `exited` by itself, ended for its `timeout`, or `stopped` from outside.
        code: the exit code; negative is the signal that ended it.
    """

    reason: Literal["exited", "timeout", "stopped"]
    code: int
    stdout: Output
    stderr: Output
    duration_s: float


class _Pipe:
    """Reads a pipe as it fills, without blocking, and keeps what fits."""

    def __init__(self, limit: int) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0
        self._hash = hashlib.sha256()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.read_end, self._read)
        self._open = True

    def _read(self) -> bool:
        """Take what is there; False once there is nothing more to have now."""
        try:
            chunk = os.read(self.read_end, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self.close()
            return False
        self._size += len(chunk)
        self._hash.update(chunk)
        self._head += chunk[: max(0, self._limit - len(self._head))]
        self._tail = (self._tail + chunk)[-_STDERR_TAIL:]
        return True

    def finish(self) -> Output:
        """Take what the ended command has left in the pipe, and close it, whoever else still holds it."""
        while self._open and self._read():
            pass
        self.close()
        return Output(bytes(self._head), bytes(self._tail), self._size, self._hash.hexdigest())

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self.read_end)
            os.close(self.read_end)


async def run_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_s: float,
    grace_s: float,
    max_output_bytes: int,
    stop: asyncio.Event,
    cwd: Path | None = None,
) -> Exit:
    """Run a command to its end, for `timeout_s` at the most, or until `stop` is set.

    Its standard input is empty. When it has to be ended, its whole process group gets SIGTERM and, after `grace_s`,
    SIGKILL; so does what it leaves behind in its group when it exits. If the caller is cancelled the group is killed
    at once.

    Raises:
        CommandError: it could not be started.
    """
    started = asyncio.get_running_loop().time()
    out, err = _Pipe(max_output_bytes), _Pipe(_STDERR_TAIL)
    try:
        process = _spawn(argv, env, cwd, out.write_end, err.write_end)
    except CommandError:
        out.close()
        err.close()
        raise
    try:
        with _exit_event(process) as exited:
            reason = await _first_of(exited, stop, timeout_s)
            if reason != "exited":
                _signal_group(process.pid, signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await exited.wait()
                _signal_group(process.pid, signal.SIGKILL)
                await exited.wait()
        # The leader is a zombie until it is waited for: its group id cannot have been given to anybody else.
        _signal_group(process.pid, signal.SIGTERM)
        code = process.wait()
        ended = asyncio.get_running_loop().time()
        stdout, stderr = out.finish(), err.finish()
        await _clear_group(process.pid, grace_s)
    except BaseException:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        out.close()
        err.close()
    return Exit(reason, code, stdout, stderr, ended - started)


def _spawn(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path | None, out: int, err: int
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        missing = error.filename if isinstance(error.filename, str) else argv[0]
        raise CommandError(f"cannot start {argv[0]!r}: {missing!r} does not exist") from None
    except OSError as error:
        longest = max(len(word.encode(errors="replace")) for word in argv)
        if longest > MAX_ARGUMENT_BYTES:
            raise CommandError(
                f"the prompt is {longest} bytes long, and one argument can have {MAX_ARGUMENT_BYTES} at the most"
            ) from None
        raise CommandError(f"cannot start {argv[0]!r}: {error.strerror or error}") from None
    except ValueError as error:
        raise CommandError(f"cannot start {argv[0]!r}: an argument cannot be passed on ({error})") from None
    finally:
        os.close(out)
        os.close(err)


@contextlib.contextmanager
def _exit_event(process: subprocess.Popen[bytes]) -> Generator[asyncio.Event]:
    """An event that is set when the process has ended, without reaping it."""
    loop = asyncio.get_running_loop()
    exited = asyncio.Event()
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, or a kernel before 5.3
        stop = _watch_by_polling(process, exited)
        try:
            yield exited
        finally:
            stop()
        return
    try:
        loop.add_reader(descriptor, exited.set)
        yield exited
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _watch_by_polling(process: subprocess.Popen[bytes], exited: asyncio.Event) -> Callable[[], None]:
    loop = asyncio.get_running_loop()
    handle: asyncio.TimerHandle

    def look() -> None:
        nonlocal handle
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            exited.set()
        else:
            handle = loop.call_later(_POLL_S, look)

    handle = loop.call_soon(look)  # pyright: ignore[reportAssignmentType]  # both kinds of handle can be cancelled
    return lambda: handle.cancel()  # noqa: PLW0108  # whichever handle it is by then


async def _first_of(
    exited: asyncio.Event, stop: asyncio.Event, timeout_s: float
) -> Literal["exited", "timeout", "stopped"]:
    waits = [asyncio.create_task(exited.wait()), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if exited.is_set():
        return "exited"
    return "stopped" if stop.is_set() else "timeout"


async def _clear_group(group: int, grace_s: float) -> None:
    """Wait until nobody is left in the group, which has had its SIGTERM; SIGKILL for who stays."""
    if not await _gone(group, grace_s):
        _signal_group(group, signal.SIGKILL)
        await _gone(group, _KILL_PATIENCE_S)


async def _gone(group: int, patience_s: float) -> bool:
    deadline = asyncio.get_running_loop().time() + patience_s
    while _signal_group(group, 0):
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody is there who has changed its user; macOS says so of zombies as well
    return True
