"""Ctrl-C as an event that a command waits for, in place of the end of the command."""

import asyncio
import signal
import threading
from types import FrameType
from typing import Self

_MOST: int = 2
"""What a third Ctrl-C does is what it always does: it ends the command."""


class Interrupts:
    """Counts Ctrl-C for the length of a block. Where it is ignored, as in the background of a script, it stays so."""

    def __init__(self) -> None:
        self._pressed = asyncio.Queue[None]()
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._before = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        self._taken = main and self._before not in (signal.SIG_IGN, None)

    def __enter__(self) -> Self:
        """Begin to count."""
        if self._taken:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        """Let Ctrl-C do what it did before."""
        if self._taken:
            signal.signal(signal.SIGINT, self._before)

    async def next(self) -> None:
        """Wait for the next Ctrl-C."""
        await self._pressed.get()

    def _press(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count > _MOST:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._pressed.put_nowait, None)
