"""Runs a command on a pseudo-terminal, as for a person."""

import asyncio
import os
import pty
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from support.harness import BOUND_S, eventually

_END = b"\x00end\x00"
_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command on a pseudo-terminal, and what it has shown there."""

    def __init__(self, child: asyncio.subprocess.Process, inner: int, seen: bytearray) -> None:
        self.child = child
        self._inner = inner
        self._seen = seen

    @property
    def raw(self) -> str:
        """All of it, with what moves the cursor and sets colours."""
        return self._seen.decode(errors="replace")

    @property
    def text(self) -> str:
        """What a person reads."""
        return _STYLE.sub("", self.raw).replace("\r\n", "\n")

    async def until_shown(self, text: str) -> None:
        def look() -> bool:
            if text not in self.text and self.child.returncode is not None:
                raise AssertionError(f"ended with {self.child.returncode} before it showed {text!r}: {self.text}")
            return text in self.text

        await eventually(look, f"the terminal shows {text!r}")

    async def drained(self) -> None:
        """Wait until all that was written has been read: what is written now comes behind it."""
        os.write(self._inner, _END)
        await eventually(lambda: self._seen.endswith(_END), "all that was written is read")
        del self._seen[-len(_END) :]

    async def exit_code(self) -> int:
        async with asyncio.timeout(BOUND_S):
            return await self.child.wait()


@asynccontextmanager
async def on_terminal(*args: str, env: dict[str, str] | None = None) -> AsyncGenerator[Terminal]:
    """Run `agentbus ARGS` on a wide terminal for the length of the block."""
    outer, inner = pty.openpty()
    loop, seen = asyncio.get_running_loop(), bytearray()
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agentbus",
            *args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=inner,
            stderr=inner,
            env={**os.environ, "COLUMNS": "200", "TERM": "xterm", **(env or {})},
        )
        loop.add_reader(outer, lambda: seen.extend(os.read(outer, 65_536)))
        try:
            yield Terminal(child, inner, seen)
        finally:
            if child.returncode is None:
                child.terminate()
                await child.wait()
            loop.remove_reader(outer)
    finally:
        os.close(outer)
        os.close(inner)


async def shown_on_terminal(*args: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """Run `agentbus ARGS` on a terminal to its end; what a person reads."""
    async with on_terminal(*args, env=env) as terminal:
        assert await terminal.exit_code() == code, terminal.text
        await terminal.drained()
        return terminal.text
