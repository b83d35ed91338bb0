"""Starts processes: the supervisor of a slot on Linux, elsewhere the agent command itself, in a session of its own.

No other module of the worker starts processes. A supervisor starts the commands of its slot, and nothing else.
"""

import asyncio
import contextlib
import errno
import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from agentbus.errors import CommandError, MachineFaultError
from agentbus_worker.running.program_file import why_not_executed
from agentbus_worker.running.supervising import supervisor
from agentbus_worker.timers import Timers

if TYPE_CHECKING:
    from agentbus_worker.asking.answer_pipe import AnswerPipe
    from agentbus_worker.repositories.clone import Clone

MAX_ARGUMENT_BYTES: Final = 131_071
"""The longest single argument on Linux: MAX_ARG_STRLEN without the closing null byte."""
_ISOLATED: Final = ("-I", "-S")
"""Nothing of the environment, the user or the installed packages changes what a supervisor runs."""
_LOADER_VARIABLES: Final = ("LD_LIBRARY_PATH",)
"""All of the environment that a supervisor gets: where the libraries of this Python may lie."""
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run. `stdin` is its standard input, which is empty if it is None.

    In `side_file` it writes what it does not print, if it is asked for that; from `answers` it reads what is answered.
    Into `artifacts`, a folder that it makes if it wants to, it puts files that are to be brought home. It works in
    `clone`, if that is not None. `no_process_left` is called if it is certain that it has ended with all its processes.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    run_id: str
    task_id: str = ""
    cwd: Path | None = None
    stdin: bytes | None = None
    owner: str = ""
    side_file: Path | None = None
    answers: "AnswerPipe | None" = None
    artifacts: Path | None = None
    clone: "Clone | None" = None
    no_process_left: Callable[[], None] = lambda: None


class Process:
    """A child process of the worker."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def wait(self) -> int:
        """Wait for the process and reap it; returns the exit code, or the negative signal that ended it."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def has_ended(self) -> bool:
        """Return whether it has ended. It is not reaped, except on macOS before Python 3.13."""
        if self._code is None and not hasattr(os, "waitid"):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is not None or (
            hasattr(os, "waitid") and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        )


class ExitEvent:
    """An event of a process, as a rule its exit, that one task waits for."""

    def __init__(self) -> None:
        self.is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Set the event."""
        self.is_set = True
        self.wake()

    def wake(self, _: object = None) -> None:
        """Wake the waiting task without setting the event."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait_exit(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until the event is set; returns whether it is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not self.is_set and (left_s := deadline - loop.time()) > 0:
            await self.wait(left_s)
        return self.is_set

    async def wait(self, timeout_s: float, timers: Timers | None = None) -> bool:
        """Wait up to `timeout_s` until the event is set or `wake` is called; returns whether it is set.

        It is waited for with one of `timers`, where it hardly ever takes that long.
        """
        if not self.is_set:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = (timers or loop).call_later(timeout_s, self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
        return self.is_set


def start(command: Command, stdout: int, stderr: int, tmp: Path) -> Process:
    """Start a command in a session of its own.

    Args:
        stdout: the write end of the pipe for its standard output; `stderr` for its standard error.
        tmp: a private folder for the standard input.

    Raises:
        CommandError: it could not be started; the message says why.
    """
    try:
        with standard_input(command.stdin, tmp) as stdin:
            child = subprocess.Popen(
                list(command.argv),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=stdout,
                stderr=stderr,
                env=dict(command.env),
                cwd=command.cwd,
                start_new_session=True,
            )
    except OSError as error:
        raise not_started(command, error) from None
    except ValueError as error:
        raise CommandError(why_not_passed_on(command, error)) from None
    child.returncode = 0  # so that `subprocess` does not wait for it: `Process.wait` reaps it
    return Process(child.pid)


def start_supervisor(worker: str, link: int) -> int:
    """Start the supervisor of a slot, in a session of its own (Linux); returns its pid.

    Args:
        worker: the token of this worker, by which the next one knows its supervisors.
        link: the supervisor's end of a socket to this process.

    Raises:
        OSError: the system refuses another process.
    """
    reset = _signals_to_reset()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    words = [",".join(str(int(number)) for number in sorted(numbers)) for numbers in (reset, mask)]
    environment = {name: os.environ[name] for name in _LOADER_VARIABLES if name in os.environ}
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *_ISOLATED, supervisor.__file__, worker, *words],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, link, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        setsid=True,
        setsigdef=reset,
        setsigmask=signal.valid_signals(),  # one to all of a service or of a user must not end it before its command
    )


@functools.cache
def _signals_to_reset() -> tuple[int, ...]:
    """Return all signals except those that this process was started with as ignored: its commands inherit these.

    The C library would reset the handlers without this list, but with sixty system calls for each start.
    """
    every = signal.valid_signals()
    ignored = {number for number in every if signal.getsignal(number) == signal.SIG_IGN}
    ignored -= {signal.SIGPIPE, signal.SIGXFSZ}  # Python itself ignores these
    return tuple(every - ignored - {signal.SIGKILL, signal.SIGSTOP})


def close_on_exec() -> None:
    """Set close-on-exec on the files that this process inherited, except for the standard streams."""
    for file in Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the folder that was listed
            if int(file.name) > 2:
                os.set_inheritable(int(file.name), False)


def why_not_passed_on(command: Command, error: ValueError) -> str:
    """Word an argument that no process can get."""
    return f"cannot start {command.argv[0]!r}: an argument cannot be passed on ({error})"


def not_started(command: Command, error: OSError) -> CommandError:
    """Make the error of a command that the system did not start: the machine's fault, unless the prompt is too long."""
    text = why_not_started(command, error)
    return CommandError(text) if error.errno == errno.E2BIG else MachineFaultError(text)


def why_not_started(command: Command, error: OSError) -> str:
    """Explain an error of the system at the start of a command."""
    program = command.argv[0]
    longest = max(len(word.encode(errors="replace")) for word in command.argv)
    if error.errno == errno.E2BIG and longest > MAX_ARGUMENT_BYTES:
        return (
            f"the prompt is {longest} bytes long, and one argument can have {MAX_ARGUMENT_BYTES} at the most; "
            'set prompt_via to "stdin" or "file" in [agent]'
        )
    where = program if error.filename is None else str(error.filename)  # the program, or the working folder
    flaw = ""
    if where == program and error.errno in (errno.ENOENT, errno.ENOEXEC):
        flaw = why_not_executed(error.errno, program, command.env, command.cwd)
    if isinstance(error, FileNotFoundError):
        return f"cannot start {program!r}: {flaw or f'{where!r} does not exist'}"
    reason = f"{error.strerror or error}{flaw and f': {flaw}'}"
    return f"cannot start {program!r}: {'' if where == program else f'{where!r}: '}{reason}"


@contextlib.contextmanager
def standard_input(data: bytes | None, tmp: Path) -> Generator[int | None]:
    """Yield a descriptor of a nameless file with the input, so a command that does not read it blocks no writer.

    It is in memory where the system has such files (Linux), and in `tmp` elsewhere.
    """
    if data is None:
        yield None
        return
    with _nameless(tmp) as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def _nameless(tmp: Path) -> BinaryIO:
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(PermissionError):  # a system may forbid files in memory that could be executed
            return os.fdopen(os.memfd_create("agentbus prompt"), "w+b")
    return cast("BinaryIO", tempfile.TemporaryFile(dir=tmp))


def watch_exit(process: Process, end: ExitEvent) -> Callable[[], None]:
    """Set the event when the process exits, without reaping it, by polling; returns what stops that."""
    loop = asyncio.get_running_loop()
    handle: asyncio.Handle

    def poll() -> None:
        nonlocal handle
        if process.has_ended():
            end.set()
        else:
            handle = loop.call_later(_POLL_S, poll)

    handle = loop.call_soon(poll)
    return lambda: handle.cancel()  # noqa: PLW0108  # `handle` changes with each poll
