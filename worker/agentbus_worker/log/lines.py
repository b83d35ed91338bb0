"""Formats records of the log as lines of text or JSON.

A record has fields besides its message. Characters that are not printable are escaped in both, so text from the bus
cannot begin another line or control a terminal.
"""

import json
import logging
import re
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from agentbus.visible_text import one_line

log = logging.getLogger("agentbus.worker")

LogFormat: TypeAlias = Literal["text", "json"]

_BARE: Final = re.compile(r"[^\s\"=\\]+")
"""A value that needs no quotation marks in a line of text."""
_MAX_CHARS: Final = 4_000
_ASCII: Final = json.JSONEncoder(default=str)


def fields(**known: object) -> dict[str, object]:
    """Build the `extra` of a record from its fields; a field that is None is left out of the line."""
    return {"fields": known}


class TaskLog:
    """The log of one task. Keyword arguments are fields: `log.info("settled", status="completed")`.

    It makes its records itself. `Logger.info` would look up the calling line, which takes as long as writing the line
    and which no line shows.
    """

    def __init__(self, task_id: str, **known: object) -> None:
        self._fields: dict[str, object] = {"task_id": task_id, **known}

    def add(self, **known: object) -> None:
        """Add fields to every further line."""
        self._fields.update(known)

    def debug(self, message: str, *args: object, **known: object) -> None:
        """Log a detail."""
        self._log(logging.DEBUG, message, args, known)

    def info(self, message: str, *args: object, **known: object) -> None:
        """Log an ordinary event of the task."""
        self._log(logging.INFO, message, args, known)

    def warning(self, message: str, *args: object, **known: object) -> None:
        """Log what an operator may have to look at."""
        self._log(logging.WARNING, message, args, known)

    def error(self, message: str, *args: object, **known: object) -> None:
        """Log what an operator has to fix."""
        self._log(logging.ERROR, message, args, known)

    def _log(self, level: int, message: str, args: tuple[object, ...], known: dict[str, object]) -> None:
        if log.isEnabledFor(level):
            record = logging.LogRecord(log.name, level, "", 0, message, args, None)
            record.fields = {**known, **self._fields}
            log.handle(record)


class LineFormatter(logging.Formatter):
    """Formats a record as one line, once for all handlers."""

    def __init__(self, **common: object) -> None:
        """`common` are fields of every record."""
        super().__init__()
        self._common = {name: value for name, value in common.items() if value is not None}
        self._last: tuple[logging.LogRecord, str] | None = None
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break."""
        last = self._last  # another thread may log meanwhile
        if last is None or last[0] is not record:
            known: dict[str, object] = getattr(record, "fields", None) or {}
            if record.exc_info:
                known = {**known, "exception": self.formatException(record.exc_info)[-_MAX_CHARS:]}
            last = self._last = record, self._line(self._time(record), record, bounded(_message(record)), known)
        return last[1]

    @abstractmethod
    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str: ...

    def _time(self, record: logging.LogRecord) -> str:
        """Format the time of the record in UTC (RFC 3339, milliseconds)."""
        second = int(record.created)
        if self._second[0] != second:
            self._second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second[1]}.{int(record.msecs):03d}Z"


class TextFormatter(LineFormatter):
    """Formats for people: the time, the level, the task and the message, then the fields as `name=value`."""

    def __init__(self, **common: object) -> None:
        """`common` are fields of every record."""
        super().__init__(**common)
        self._end = _pairs(self._common)

    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str:
        task = f"task {known['task_id']}: " if "task_id" in known else ""
        line = f"{at} {record.levelname} {task}{message}{_pairs(known)}{self._end}"
        return one_line(line)


class JsonFormatter(LineFormatter):
    """Formats for programs: an object with the time, the level, the logger, the message and the fields, in ASCII."""

    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str:
        line: dict[str, object] = {"time": at, "level": record.levelname, "logger": record.name, "message": message}
        for name, value in known.items():
            if value is not None:
                line[name] = bounded(value) if isinstance(value, str) else value
        line.update(self._common)
        return _ASCII.encode(line)


FORMATTERS: Final[Mapping[LogFormat, type[LineFormatter]]] = {"text": TextFormatter, "json": JsonFormatter}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError) as error:  # a fault of ours must not end the worker, nor go unseen
        return f"{record.msg} (this line could not be made: {type(error).__name__})"


def bounded(text: str) -> str:
    """Shorten a long text, and escape lone surrogates, which UTF-8 cannot encode."""
    if not text.isascii():
        text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "…"


def _pairs(known: Mapping[str, object]) -> str:
    """Format fields for the end of a line of text, without the task, which is before the message."""
    return "".join(
        f" {name}={quoted(value) if isinstance(value, str) else value}"
        for name, value in known.items()
        if value is not None and name != "task_id"
    )


def quoted(text: str) -> str:
    """Bound a value of a field, and quote it where it has blanks or the like."""
    text = bounded(text)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
