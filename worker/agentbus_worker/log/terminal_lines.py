"""Formats records of the log for a person at a terminal: short, in colours, one line an event.

Which worker of which agent it is, the person knows: it was started there. The log file has every field.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TextIO

from agentbus.terminal import Styled, columns_of, cut_to, for_terminal
from agentbus.visible_text import one_line
from agentbus_worker.log.lines import LineFormatter, bounded, quoted

_WIDTH: Final = 80
"""Of a terminal that does not know its own."""
_INDENT: Final = " " * len("12:34:56 ")
_LEVELS: Final[Mapping[str, tuple[str, str | None]]] = {
    "WARNING": ("warning: ", "yellow"),
    "ERROR": ("error: ", "red"),
    "CRITICAL": ("error: ", "red"),
}
_STATUSES: Final[Mapping[str, str]] = {
    "completed": "green",
    "failed": "red",
    "cancelled": "red",
    "needs_approval": "yellow",
}
_NOT_AS_FIELDS: Final = frozenset({"task_id", "status", "reason", "duration_s", "trace_id", "output_bytes"})
"""Fields that have a place of their own in the line, or that are for programs."""
_ORDINARY: Final[Mapping[str, object]] = {"attempt": 1, "exit_code": 0, "task_type": "task"}
"""Fields that say nothing while they have this value."""
_MINUTE_S: Final = 60


def terminal_formatter(stream: TextIO) -> logging.Formatter:
    """Return the formatter for the terminal that a stream is."""
    descriptor = stream.fileno()

    def width() -> int:
        try:
            return os.get_terminal_size(descriptor).columns or _WIDTH
        except OSError:  # it was closed: what is written fails as well
            return _WIDTH

    return TerminalFormatter(width)


class TerminalFormatter(LineFormatter):
    """Formats the local time, the task and what happened, then as many fields as the line has room for.

    A message is never cut, and neither is a warning or an error: they say what to do.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        """`width` gives the columns of the terminal, which may change."""
        super().__init__()
        self._width = width

    def _time(self, record: logging.LogRecord) -> str:
        return time.strftime("%H:%M:%S", time.localtime(record.created))

    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str:
        level, colour = _LEVELS.get(record.levelname, ("", None))
        task = f"{known['task_id']}: " if "task_id" in known else ""
        status = f" {known['status']}" if known.get("status") is not None else ""
        parts = [
            Styled(f"{at} "),
            Styled(level, colour),
            Styled(one_line(task), "cyan"),
            Styled(one_line(message)),
            Styled(one_line(status), _STATUSES.get(status.strip())),
        ]
        taken = sum(columns_of(part.text) for part in parts)
        if level:
            return for_terminal(*parts, *_fields(known), *([f": {_reason(known)}"] if "reason" in known else []))
        return for_terminal(*parts, _fitting(_fields(known), _reason(known), taken, self._width()))


def _fields(known: Mapping[str, object]) -> Iterator[str]:
    """Yield the fields that a person looks for, each with the blank before it."""
    if isinstance(took := known.get("duration_s"), int | float):
        yield f" in {_took(took)}"
    for name, value in known.items():
        if value is not None and name not in _NOT_AS_FIELDS and _ORDINARY.get(name) != value:
            yield one_line(f" {name}={quoted(value) if isinstance(value, str) else value}")


def _took(seconds: float) -> str:
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < _MINUTE_S**2 else f"{seconds / 3600:.1f} h"


def _reason(known: Mapping[str, object]) -> str:
    return one_line(bounded(str(known.get("reason") or "")))


def _fitting(fields: Iterator[str], reason: str, taken: int, width: int) -> str:
    """Join the fields that there is room for; a reason that has none in the line stands below, cut to the width."""
    end = f": {reason}" if reason else ""
    if taken + columns_of(end) > width:
        end = f"\n{_INDENT}{cut_to(reason, width - len(_INDENT))}"
    room = width - taken - (0 if end.startswith("\n") else columns_of(end))
    line = ""
    for field in fields:
        if columns_of(line + field) > room:
            break
        line += field
    return line + end
