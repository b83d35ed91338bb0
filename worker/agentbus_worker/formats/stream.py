"""Reads the standard output of an agent while it is written, in bounded memory: its bytes become events."""

from collections.abc import Callable, Sequence
from typing import Final

from agentbus.protocol.outcomes.run_report import Run
from agentbus_worker.formats.events import Event, Text, Tool, ToolEnd
from agentbus_worker.formats.judgement import Ended, Judgement
from agentbus_worker.formats.lines import Lines
from agentbus_worker.formats.readers import READERS
from agentbus_worker.formats.reading import Totals

_MAX_ERROR_LINE_BYTES: Final = 65_536


class EventStream:
    """The output of one run in a format with events.

    Args:
        format_: one of `READERS`.
        command: what is run; of one that goes on with a session, numbers that count over the session are left out,
            unless it is known what they were `before`.
        before: the totals of that session.

    Attributes:
        productive: whether something has come of the run: the model said something, or the agent used a tool.
    """

    def __init__(self, format_: str, *, command: Sequence[str] = (), before: Totals | None = None) -> None:
        reader = READERS[format_]
        goes_on = before is not None or reader.counts_earlier_runs(command)  # a script may hide what it runs
        self.reader = reader(before) if goes_on else reader()
        self._lines = Lines()
        self._error_lines = Lines(_MAX_ERROR_LINE_BYTES)
        self.productive = False
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, on_event: Callable[[Event], None]) -> None:
        """Call `on_event`, which must not raise, with each event from now on, as soon as its line is whole."""
        self._listeners.append(on_event)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; never raises for what they hold."""
        skipped = self._lines.skipped
        for line in self._lines.feed(chunk):
            self._read(line)
        if self._lines.skipped > skipped:
            self.reader.pass_over()

    def feed_error(self, chunk: bytes) -> None:
        """Take the next bytes of standard error, where some agents say that they try again."""
        for line in self._error_lines.feed(chunk):
            self._tell(self.reader.feed_error(line))

    def outcome(self, ended: Ended) -> Judgement:
        """Judge the run; its last line need not have an end."""
        self._read(self._lines.rest())
        return self.reader.outcome(ended)

    def report(self) -> Run:
        """Return what the agent says of the run, which has ended; its last line need not have an end."""
        self._read(self._lines.rest())
        return self.reader.report()

    def tell(self, event: Event) -> None:
        """Tell the listeners of something that is not in the output."""
        self._tell([event])

    def _read(self, line: bytes) -> None:
        self._tell(self.reader.feed(line))

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            self.productive = self.productive or isinstance(event, Text | Tool | ToolEnd)
            for on_event in self._listeners:
                on_event(event)


def stream_of(format_: str, command: Sequence[str] = (), before: Totals | None = None) -> EventStream | None:
    """Return a stream for what a command prints in a format with events; None for text."""
    return EventStream(format_, command=command, before=before) if format_ in READERS else None
