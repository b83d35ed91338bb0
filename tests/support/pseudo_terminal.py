"""Runs commands with their output on a pseudo-terminal, and tells what of it could act there."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from support.harness import BOUND_S, eventually
from support.hidden_characters import hidden

_OURS = re.compile(r"\x1b\[(?:0|1|2|22|3[0-7]|39|1;3[0-7]|0m|;)*m")
"""The colours and weights that our own tables and marks have; no text in the tests asks for one of these."""
_SCREEN = re.compile(r"\x1b\[(?:\?1049[hl]|\?25[hl]|H|2J|\d*[AK])")
"""What `agentbus top` draws a page with."""


@dataclass
class OnTerminal:
    """A command that runs on a pseudo-terminal, and the bytes that its terminal got so far."""

    child: asyncio.subprocess.Process
    got: bytearray = field(default_factory=bytearray)
    keyboard: int = -1

    @property
    def shown(self) -> str:
        """What a terminal with UTF-8 makes of them; a byte that is none stays one that can be told."""
        return self.got.decode(errors="surrogateescape")

    @property
    def text(self) -> str:
        """The same without our own colours."""
        return _OURS.sub("", self.shown)

    def press(self, keys: str) -> None:
        """Type keys, as the terminal sends them."""
        os.write(self.keyboard, keys.encode())

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        await eventually(holds, f"{what}: {self.shown[-4_000:]}")

    async def until_shown(self, text: str) -> None:
        await eventually(lambda: text in self.shown, f"the terminal shows {text!r}: {self.shown}")


@contextlib.asynccontextmanager
async def terminal(
    argv: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    streams: Literal["both", "stdout", "stderr"] = "both",
    pipe: int = asyncio.subprocess.PIPE,
    columns: int = 1000,
    lines: int = 60,
    keyboard: bool = False,
) -> AsyncGenerator[OnTerminal]:
    """Run `python ARGV` on a terminal of 60 lines and 1000 columns; the other of the two streams is `pipe`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    without = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
    around = {name: value for name, value in os.environ.items() if name not in without}
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, *argv, stdin=theirs if keyboard else asyncio.subprocess.DEVNULL,
            stdout=theirs if streams != "stderr" else pipe, stderr=theirs if streams != "stdout" else pipe,
            env={**around, "TERM": "xterm-256color", **(env or {})},
        )  # fmt: skip
    finally:
        os.close(theirs)
    running = OnTerminal(child, keyboard=ours)
    os.set_blocking(ours, False)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        try:
            while chunk := os.read(ours, 65_536):
                running.got.extend(chunk)
        except BlockingIOError:
            return
        except OSError:  # the other side is closed
            pass
        loop.remove_reader(ours)
        ended.set()

    loop.add_reader(ours, read)
    try:
        yield running
        async with asyncio.timeout(BOUND_S):
            await ended.wait()
            await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        loop.remove_reader(ours)
        os.close(ours)


async def on_terminal(*args: str, env: dict[str, str] | None = None) -> tuple[int | None, str]:
    """Run `agentbus ARGS` on a terminal, to its end; return its exit code and what the terminal got."""
    async with terminal(["-m", "agentbus", *args], env=env) as running:
        pass
    return running.child.returncode, running.shown


def acting(shown: str, *, screen: bool = False) -> list[str]:
    """What is left that acts on a terminal or hides there, once our own colours (and pages) are taken away."""
    text = _OURS.sub("", shown.replace("\r\n", "\n"))
    if screen:
        text = _SCREEN.sub("", text)
    return [
        f"{char!a} in {text[max(at - 40, 0) : at + 20]!a}"
        for at, char in enumerate(text)
        if hidden(char) and char not in "\t\n"
    ]
