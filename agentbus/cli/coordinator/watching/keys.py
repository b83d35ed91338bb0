"""Reads keys from the terminal while a page is shown; without a terminal that can be told so, there are none."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

_ESCAPE: Final = "\x1b"
_NAMES: Final = {
    "\x1b[A": "up", "\x1bOA": "up", "k": "up", "\x1b[B": "down", "\x1bOB": "down", "j": "down",
    "\x1b[5~": "page up", "b": "page up", "\x1b[6~": "page down", " ": "page down",
    "\x1b[H": "home", "\x1b[1~": "home", "g": "home", "\x1b[F": "end", "\x1b[4~": "end", "G": "end",
    "\r": "enter", "\n": "enter", _ESCAPE: "back", "\x7f": "back", "\x08": "back", "q": "quit", "Q": "quit",
}  # fmt: skip
_LONGEST: Final = 8
"""No key of ours is longer; what is, was pasted."""


def names_of(text: str) -> list[str]:
    """Return the names of the keys in what a terminal sent at once; others are passed over."""
    found: list[str] = []
    while text:
        length = next((size for size in range(min(_LONGEST, len(text)), 0, -1) if text[:size] in _NAMES), 0)
        if text.startswith(_ESCAPE + "[") and length <= 1:  # a key that is not known, such as F5
            rest = text[2:].lstrip("0123456789;")
            text = rest[1:]
            continue
        if length:
            found.append(_NAMES[text[:length]])
        text = text[length or 1 :]
    return found


@asynccontextmanager
async def keys() -> AsyncGenerator["asyncio.Queue[str]"]:
    """Yield a queue of the names of pressed keys, and of `resize`, for the length of the block.

    The terminal gives each key at once and shows none of them; at the end it is as it was.
    """
    pressed = asyncio.Queue[str]()
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield pressed
        return
    import termios  # noqa: PLC0415  # not on Windows
    import tty  # noqa: PLC0415

    number, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(number)

    def read() -> None:
        try:
            data = os.read(number, 1_024)
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            loop.remove_reader(number)
        for name in names_of(data.decode(errors="ignore")):
            pressed.put_nowait(name)

    try:
        tty.setcbreak(number, termios.TCSANOW)
        loop.add_reader(number, read)
        with suppress(RuntimeError, ValueError):  # not in the main thread
            loop.add_signal_handler(signal.SIGWINCH, pressed.put_nowait, "resize")
        yield pressed
    finally:
        with suppress(RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGWINCH)
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSANOW, before)
