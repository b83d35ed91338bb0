"""What `agentbus top` shows: the page of the bus, or the live log of one task, as much of it as the screen holds.

Each pane keeps where a person has scrolled to, and draws as many lines as it is given.
"""

from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Protocol

from rich.cells import cell_len
from rich.text import Text

from agentbus.cli.coordinator.showing.page import PageLine, page_lines
from agentbus.cli.coordinator.task_log import events_of, paragraph
from agentbus.cli.tables import harmless
from agentbus.errors import AgentBusError
from agentbus.visible_text import one_line

if TYPE_CHECKING:
    from agentbus.admin.overview import BusOverview
    from agentbus.task_handle import TaskHandle
    from agentbus.tasks.status import TaskStatus

_MOST_LINES: Final = 2_000
"""Of a log, the newest; `agentbus task logs` has all of it."""


class Pane(Protocol):
    """A part of the screen that a person can scroll."""

    keys: str

    def draw(self, width: int, height: int) -> list[Text]:
        """Return at most `height` lines of at most `width` columns."""
        ...

    def press(self, key: str) -> None:
        """Scroll."""
        ...


class BusPane:
    """The page, with one of its tasks chosen."""

    keys = "up/down: choose   Enter: its log   q: quit"

    def __init__(self) -> None:
        self._overview: BusOverview | None = None
        self._error = ""
        self._chosen: tuple[str, str, str] | None = None
        self._lines: list[PageLine] = []
        self._top = 0
        self._height = 1

    def show(self, overview: "BusOverview") -> None:
        """Show a new overview."""
        self._overview, self._error = overview, ""

    def show_error(self, error: Exception) -> None:
        """Show an error above the last overview."""
        self._error = str(error)

    @property
    def chosen(self) -> "TaskStatus | None":
        """The task that a person has chosen; the first one at the beginning."""
        tasks = [line.status for line in self._lines if line.status is not None]
        return next((one for one in tasks if one.record.key == self._chosen), tasks[0] if tasks else None)

    def draw(self, width: int, height: int) -> list[Text]:
        """Return what is visible of the page."""
        self._height = height
        chosen = self.chosen
        lines = [] if self._overview is None else page_lines(self._overview, max(1, width - 2))
        self._lines = [PageLine(part, line.status) for line in lines for part in line.text.split("\n")]
        if self._error:
            self._lines.insert(0, PageLine(harmless(one_line(self._error), "bold red")))
        if self._overview is None and not self._error:
            self._lines = [PageLine(Text("reading …", style="dim"))]
        self._top = max(0, min(self._top, len(self._lines) - height))
        key = chosen.record.key if chosen is not None else None
        drawn: list[Text] = []
        for line in self._lines[self._top : self._top + height]:
            mark = "> " if line.status is not None and line.status.record.key == key else "  "
            drawn.append(Text(mark, "bold").append_text(line.text))
        return drawn

    def press(self, key: str) -> None:
        """Choose the next task, or scroll where there is none."""
        if key in ("up", "down"):
            self._step(-1 if key == "up" else 1)
        pages = {"page up": -self._height, "page down": self._height, "home": -self._top, "end": len(self._lines)}
        self._top += pages.get(key, 0)

    def _step(self, by: int) -> None:
        chosen = self.chosen
        starts = [at for at, line in enumerate(self._lines) if line.status is not None and self._is_first(at)]
        at = next((at for at in starts if self._lines[at].status is chosen), None)
        others = [] if at is None else [one for one in starts if (one - at) * by > 0]
        if others:
            self._choose(others[0] if by > 0 else others[-1])
        else:
            self._top += by

    def _is_first(self, at: int) -> bool:
        return at == 0 or self._lines[at - 1].status is not self._lines[at].status

    def _choose(self, at: int) -> None:
        status = self._lines[at].status
        assert status is not None, "a task stands there"
        self._chosen = status.record.key
        # The title of its table stands two lines above the first task.
        self._top = min(self._top, max(0, at - 2))
        self._top = max(self._top, at + 2 - self._height)


class TaskPane:
    """The log of a task, which goes on while it runs; its newest lines, unless a person has scrolled up."""

    keys = "up/down: scroll   Esc: back   q: quit"

    def __init__(self, handle: "TaskHandle", status: "TaskStatus") -> None:
        self._handle = handle
        self._status = status
        self._said = deque[tuple[str, str]](maxlen=_MOST_LINES)
        self._note = "reading …"
        self._up = 0
        self._most_up = 0
        self._height = 1

    async def follow(self) -> None:
        """Read the events of the task to their end; where they cannot be read, the pane says why."""
        try:
            async with aclosing(events_of(self._handle, follow=True)) as events:
                async for event in events:
                    self._said += paragraph(event)
                    self._note = ""
            state = (await self._handle.status()).state_in_words
            self._note = f"it is {state}: agentbus task get {self._status.task_id}"
        except AgentBusError as error:
            self._note = one_line(str(error))

    def draw(self, width: int, height: int) -> list[Text]:
        """Return the newest lines, or those that a person has scrolled to."""
        self._height = max(1, height - 2)
        head = [
            Text(f"{self._status.task_id}  {self._status.agent}", "bold"),
            harmless(one_line(self._status.about), "dim"),
        ]
        lines = [harmless(part, style) for text, style in self._said for part in _folded(text, width)]
        if self._note:
            lines.append(harmless(self._note, "dim"))
        self._most_up = max(0, len(lines) - self._height)
        self._up = max(0, min(self._up, self._most_up))
        end = len(lines) - self._up
        return [*head, *lines[max(0, end - self._height) : end]]

    def press(self, key: str) -> None:
        """Scroll."""
        steps = {"up": 1, "down": -1, "page up": self._height, "page down": -self._height}
        self._up += steps.get(key, 0)
        if key in ("home", "end"):
            self._up = self._most_up if key == "home" else 0


def _folded(text: str, width: int) -> list[str]:
    """Cut a line into parts that fit; a character may be two columns wide."""
    parts, part, used = list[str](), "", 0
    for char in one_line(text):
        size = cell_len(char)
        if used + size > width and part:
            parts.append(part)
            part, used = "", 0
        part, used = part + char, used + size
    return [*parts, part]
