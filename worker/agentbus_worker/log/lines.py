"""Formats a line of the log as text or as JSON.

A record carries facts beside its message. Whatever either of them holds, it stays inside its own line: what does not
print is escaped, so nothing that comes over the bus can look like a line of its own, or move what a terminal shows.
"""

import json
import logging
import re
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

LogFormat: TypeAlias = Literal["text", "json"]

_BARE: Final = re.compile(r"[^\s\"=\\]+")
"""A value that can stand in a line of text without quotation marks."""
_LONGEST: Final = 4_000
_ASCII: Final = json.JSONEncoder(default=str)


def facts(**known: object) -> dict[str, object]:
    """Build the `extra` of a record: facts by their names; None is left out of the line."""
    return {"facts": known}


class TaskLog:
    """The log of one task. Keyword arguments are facts: `log.info("settled", status="completed")`.

    It makes its records itself: where in the code a line comes from is in no line, and takes as long to find out as
    the line takes to be written.
    """

    def __init__(self, task_id: str, **known: object) -> None:
        self._logger = logging.getLogger("agentbus.worker")
        self._facts: dict[str, object] = {"task_id": task_id, **known}

    def add(self, **known: object) -> None:
        """Add facts to every further line."""
        self._facts.update(known)

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
        """Log what an operator has to repair."""
        self._log(logging.ERROR, message, args, known)

    def _log(self, level: int, message: str, args: tuple[object, ...], known: dict[str, object]) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            record = logging.LogRecord(logger.name, level, "", 0, message, args, None)
            record.facts = {**known, **self._facts}
            logger.handle(record)


class LineFormatter(logging.Formatter):
    """Formats one line for each record, once for all handlers."""

    def __init__(self, **common: object) -> None:
        """`common` are facts of every record."""
        super().__init__()
        self._common = {name: value for name, value in common.items() if value is not None}
        self._last: tuple[logging.LogRecord, str] | None = None
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        """Make the line, without its end."""
        if self._last is None or self._last[0] is not record:
            known: dict[str, object] = getattr(record, "facts", None) or {}
            if record.exc_info:
                known = {**known, "exception": self.formatException(record.exc_info)[-_LONGEST:]}
            self._last = record, self._line(self._time(record), record, _bounded(record.getMessage()), known)
        return self._last[1]

    @abstractmethod
    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str: ...

    def _time(self, record: logging.LogRecord) -> str:
        """The time of the record in UTC (RFC 3339, milliseconds)."""
        second = int(record.created)
        if self._second[0] != second:
            self._second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second[1]}.{int(record.msecs):03d}Z"


class TextFormatter(LineFormatter):
    """For people: the time, the level, the task and the message, and then the facts as `name=value`."""

    def __init__(self, **common: object) -> None:
        """`common` are facts of every record."""
        super().__init__(**common)
        self._end = _pairs(self._common)

    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str:
        task = f"task {known['task_id']}: " if "task_id" in known else ""
        line = f"{at} {record.levelname} {task}{message}{_pairs(known)}{self._end}"
        return line if line.isprintable() else _printable(line)


class JsonFormatter(LineFormatter):
    """For programs: one object with the time, the level, the logger, the message and the facts, all in ASCII."""

    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str:
        line: dict[str, object] = {"time": at, "level": record.levelname, "logger": record.name, "message": message}
        for name, value in known.items():
            if value is not None:
                line[name] = _bounded(value) if isinstance(value, str) else value
        line.update(self._common)
        return _ASCII.encode(line).replace("\x7f", "\\u007f")


FORMATTERS: Final[Mapping[LogFormat, type[LineFormatter]]] = {"text": TextFormatter, "json": JsonFormatter}


def _bounded(text: str) -> str:
    """Shorten a long text, and escape what no encoding can write (a lone surrogate)."""
    if not text.isascii():
        text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _pairs(known: Mapping[str, object]) -> str:
    """Facts as the end of a line of text; the task stands before its message."""
    return "".join(
        f" {name}={_shown(value) if isinstance(value, str) else value}"
        for name, value in known.items()
        if value is not None and name != "task_id"
    )


def _shown(text: str) -> str:
    text = _bounded(text)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _printable(text: str) -> str:
    """Escape every character that is not printable."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
