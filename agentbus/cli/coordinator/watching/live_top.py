"""`agentbus top` on a terminal: draws what is visible, again with each overview and each key."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from agentbus.cli.coordinator.showing.page import print_page
from agentbus.cli.coordinator.watching.keys import keys
from agentbus.cli.coordinator.watching.panes import BusPane, Pane, TaskPane
from agentbus.errors import BusUnavailableError

if TYPE_CHECKING:
    from agentbus.admin.overview import BusOverview, OverviewReader
    from agentbus.coordinator import Coordinator

_LOG_S: Final = 0.5
"""How often the log of a task is drawn again: its events come in this process, and cost the bus nothing."""


class LiveTop:
    """The screen: the page, or over it the log of a task that a person has opened."""

    def __init__(self, bus: "Coordinator", reader: "OverviewReader", interval: float, count: int | None) -> None:
        self._bus = bus
        self._reader = reader
        self._interval = interval
        self._left = count
        self._last: BusOverview | None = None
        self._page = BusPane()
        self._log: TaskPane | None = None
        self._following: asyncio.Task[None] | None = None
        self._console = Console()

    async def run(self) -> None:
        """Show the bus until `q`, Ctrl-C, or the last overview; that one then stands on the restored terminal."""
        try:
            with Live(console=self._console, screen=True, auto_refresh=False) as live:
                async with keys() as pressed:
                    await self._show(live, pressed)
        finally:
            await self._close_log()
        if self._last is not None:
            print_page(self._last)

    async def _show(self, live: Live, pressed: "asyncio.Queue[str]") -> None:
        loop = asyncio.get_running_loop()
        reading, due = None, loop.time()
        try:
            while True:
                if reading is None and loop.time() >= due:
                    reading, due = asyncio.create_task(self._read()), loop.time() + self._interval
                self._draw(live)
                wait_s = _LOG_S if self._log is not None else max(0.05, due - loop.time())
                waiting = asyncio.create_task(pressed.get())
                waits: list[asyncio.Task[Any]] = [waiting, *([reading] if reading is not None else [])]
                await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                key = _taken(waiting)
                if reading is not None and reading.done():
                    reading.result()
                    reading = None
                    if self._is_over():
                        self._draw(live)
                        return
                if key is not None and await self._press(key):
                    return
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.wait((reading,))

    async def _read(self) -> None:
        try:
            self._last = await self._reader.read()
            self._page.show(self._last)
        except BusUnavailableError as error:
            self._page.show_error(error)

    def _is_over(self) -> bool:
        """Count an overview; return whether it was the last one."""
        if self._left is None:
            return False
        self._left -= 1
        return self._left <= 0

    async def _press(self, key: str) -> bool:
        """Act on a key; return whether it ends the command."""
        if key == "quit":
            return True
        if key == "back":
            await self._close_log()
        elif key == "enter" and self._log is None:
            self._open_log()
        else:
            (self._log or self._page).press(key)
        return False

    def _open_log(self) -> None:
        if (status := self._page.chosen) is None:
            return
        handle = self._bus.task(status.task_id, agent=status.agent, owner=status.owner)
        self._log = TaskPane(handle, status)
        self._following = asyncio.create_task(self._log.follow())

    async def _close_log(self) -> None:
        following, self._following, self._log = self._following, None, None
        if following is not None:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    def _draw(self, live: Live) -> None:
        width, height = self._console.size
        pane: Pane = self._log or self._page
        lines = pane.draw(width, max(1, height - 1))
        lines += [Text()] * (height - 1 - len(lines))
        lines.append(Text(pane.keys, "bold"))
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        live.update(Text("\n", no_wrap=True, overflow="crop").join(lines[:height]), refresh=True)


def _taken(waiting: "asyncio.Task[str]") -> str | None:
    """Return the key that was pressed; no longer wait for one if none was."""
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    return None
