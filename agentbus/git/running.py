"""Runs git commands to their end or their limit, in a process group of their own: one place for both sides of a task.

What a command prints goes to files, not to pipes: a program that git has started and that outlives it, such as a shared
connection of ssh, would hold a pipe open.
"""

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from agentbus.errors import GitError, GitMissingError, GitTooLargeError
from agentbus.git.fixed_settings import environment, options
from agentbus.visible_text import visible

RUNNING: Final[set[int]] = set()
"""The processes that run now: children of this process, and not those of any agent."""

_LOOK_S: Final = 0.05
"""How often the size of what is printed is looked at: at the speed of a fast disk that is 100 MB."""
_KILL_S: Final = 5.0
"""How long the end of a killed process is waited for: only one that hangs in the kernel takes so long."""
_SHOWN_CHARS: Final = 600
"""How much of what git says on standard error an error shows."""
MAX_PRINTED_BYTES: Final = 32 * 1024 * 1024
"""How much a command may print where nothing else is said: the names of 100,000 files have 10 MB."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: its exit code, and what it printed."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """What it printed on standard output, without the line end; what is no UTF-8 is replaced."""
        return self.stdout.decode("utf-8", errors="replace").rstrip("\n")

    @property
    def names(self) -> list[bytes]:
        """What it printed with `-z`: each item ends with a zero byte."""
        return [name for name in self.stdout.split(b"\0") if name]


@dataclass(frozen=True, slots=True)
class Git:
    """Git for one repository, or for none.

    Attributes:
        git_dir: the repository itself, as `--git-dir`; its configuration is read, so it must be one that only we wrote,
            or that of the user who runs this.
        work_tree: its files, as `--work-tree`.
        folder: in place of both, a folder in a repository: `-C`.
        of_user: see `fixed_settings.environment`.
        settings: further settings, as `name=value`.
        variables: further environment variables.
        keep_open: file descriptors that the command inherits: a lock lasts as long as a command that outlives us.
    """

    git_dir: Path | None = None
    work_tree: Path | None = None
    folder: Path | None = None
    of_user: bool = False
    settings: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    keep_open: tuple[int, ...] = ()

    async def run(
        self,
        *words: str,
        timeout_s: float,
        stdin: bytes = b"",
        max_bytes: int = MAX_PRINTED_BYTES,
        check: bool = True,
        into: Path | None = None,
    ) -> Ended:
        """Run a command to its end.

        Args:
            timeout_s: it is killed then.
            stdin: what it reads.
            max_bytes: it is killed when it has printed more.
            check: whether another exit code than 0 is an error.
            into: a new file that gets what it prints, in place of `stdout`.

        Raises:
            GitMissingError: there is no git on this machine.
            GitTooLargeError: it has printed more than `max_bytes`.
            GitError: it failed, or did not end in time; the message says what it said.
            OSError: a file cannot be made.
        """
        with contextlib.ExitStack() as files:
            out: IO[bytes] = files.enter_context(_new_file(into))
            err: IO[bytes] = files.enter_context(tempfile.TemporaryFile())
            given: IO[bytes] | int = subprocess.DEVNULL
            if stdin:
                given = files.enter_context(tempfile.TemporaryFile())
                given.write(stdin)
                given.seek(0)
            try:
                code = await self._ended(words, given, out, err, timeout_s, max_bytes)
            except GitError:
                _unlink(into)
                raise
            err.seek(max(0, os.fstat(err.fileno()).st_size - 4 * _SHOWN_CHARS))
            said = err.read(4 * _SHOWN_CHARS).decode("utf-8", errors="replace")
            if check and code != 0:
                _unlink(into)
                raise GitError(f"git {_name(words)} failed: {_shown(said) or f'exit code {code}'}", code=code)
            printed = b""
            if into is None:
                out.seek(0)
                printed = out.read()
            return Ended(code, printed, said)

    async def _ended(
        self,
        words: tuple[str, ...],
        given: IO[bytes] | int,
        out: IO[bytes],
        err: IO[bytes],
        timeout_s: float,
        max_bytes: int,
    ) -> int:
        process = self._start(words, given, out, err)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        threading.Thread(target=_wait, args=(process, loop, done), daemon=True, name="git").start()
        deadline = time.monotonic() + timeout_s
        try:
            while not done.done():
                await asyncio.wait({done}, timeout=_LOOK_S)
                if os.fstat(out.fileno()).st_size > max_bytes or os.fstat(err.fileno()).st_size > MAX_PRINTED_BYTES:
                    raise GitTooLargeError(f"git {_name(words)} has printed more than {max_bytes} bytes")
                if not done.done() and time.monotonic() > deadline:
                    raise GitError(f"git {_name(words)} has not ended within {timeout_s:g} s, and was ended")
            return done.result()
        finally:
            if not done.done():
                _kill(process)
                await asyncio.wait({done}, timeout=_KILL_S)
            RUNNING.discard(process.pid)

    def _start(
        self, words: tuple[str, ...], given: IO[bytes] | int, out: IO[bytes], err: IO[bytes]
    ) -> "subprocess.Popen[bytes]":
        """Start a process and note it in one step of the event loop: another one may end children that are unknown."""
        where = [
            *(["-C", str(self.folder)] if self.folder else []),
            *([f"--git-dir={self.git_dir}"] if self.git_dir else []),
            *([f"--work-tree={self.work_tree}"] if self.work_tree else []),
        ]
        further = [word for setting in self.settings for word in ("-c", setting)]
        try:
            process = subprocess.Popen(
                [git_program(), *options(), *further, *where, *words],
                stdin=given,
                stdout=out,
                stderr=err,
                env=environment(of_user=self.of_user, more=self.variables),
                pass_fds=() if sys.platform == "win32" else self.keep_open,
                start_new_session=sys.platform != "win32",
            )
        except OSError as error:
            raise GitError(f"git could not be started: {error.strerror or error}") from None
        RUNNING.add(process.pid)
        return process


@functools.cache
def _found(path: str) -> str | None:
    return shutil.which("git", path=path)


def git_program() -> str:
    """Return the path of git.

    Raises:
        GitMissingError: there is none on the PATH.
    """
    found = _found(os.environ.get("PATH", os.defpath))
    if found is None:
        raise GitMissingError("git is not on the PATH of this process; install it (git 2.31 or later)")
    return found


def _new_file(path: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile() if path is None else path.open("xb")


def _wait(process: "subprocess.Popen[bytes]", loop: asyncio.AbstractEventLoop, done: "asyncio.Future[int]") -> None:
    code = process.wait()

    def tell() -> None:
        if not done.done():
            done.set_result(code)

    with contextlib.suppress(RuntimeError):  # the loop is closed: no caller is left
        loop.call_soon_threadsafe(tell)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a command with what it has started."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _unlink(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _name(words: tuple[str, ...]) -> str:
    return next((word for word in words if not word.startswith("-")), "")


def _shown(said: str) -> str:
    """Return what git said, on one line: it may quote names and servers of others."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("hint:")]
    text = visible(" ".join(" ".join(lines).split()))
    return text if len(text) <= _SHOWN_CHARS else "…" + text[-_SHOWN_CHARS:]
