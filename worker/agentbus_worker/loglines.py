"""What a line of the log looks like, as text or as JSON.

A record carries facts beside its message. Whatever either of them holds, it stays inside its own line: what does not
print is escaped, so nothing that comes over the bus can look like a line of its own, or move what a terminal shows.
"""

import json
import logging
import re
import time
from abc import abstractmethod
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TypeAlias

LogFormat: TypeAlias = Literal["text", "json"]

_BARE: Final = re.compile(r"[^\s\"=\\]+")
"""A value that can stand in a line of text without quotation marks."""
_LONGEST: Final = 4_000
_ASCII: Final = json.JSONEncoder(default=str)


def facts(**known: object) -> dict[str, object]:
    """What `extra` of a record takes: facts by their names; None is left out of the line."""
    return {"facts": known}


class TaskLog(logging.LoggerAdapter[logging.Logger]):
    """The log of one task. Keyword arguments are facts: `log.info("settled", status="completed")`."""

    def __init__(self, task_id: str, **known: object) -> None:
        super().__init__(logging.getLogger("agentbus.worker"))
        self._facts: dict[str, object] = {"task_id": task_id, **known}

    def add(self, **known: object) -> None:
        """Say this in every further line."""
        self._facts.update(known)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """The record of a line: what the call says of it comes first."""
        return msg, {"extra": facts(**kwargs, **self._facts)}


class LineFormatter(logging.Formatter):
    """One line for each record; made once for all that it goes to."""

    def __init__(self, **common: object) -> None:
        """`common` are facts of every record."""
        super().__init__()
        self._common = common
        self._last: tuple[logging.LogRecord, str] | None = None
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        if self._last is None or self._last[0] is not record:
            said: dict[str, object] = {**getattr(record, "facts", {}), **self._common}
            known = {name: _bounded(value) for name, value in said.items() if value is not None}
            if record.exc_info:
                known["exception"] = self.formatException(record.exc_info)
            self._last = record, self._line(self._time(record), record, _bounded(record.getMessage()), known)
        return self._last[1]

    @abstractmethod
    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str: ...

    def _time(self, record: logging.LogRecord) -> str:
        """When it was, in UTC (RFC 3339, milliseconds)."""
        second = int(record.created)
        if self._second[0] != second:
            self._second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second[1]}.{int(record.msecs):03d}Z"


class TextFormatter(LineFormatter):
    """For people: the time, the level, the task and the message, and then the facts as `name=value`."""

    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str:
        task = f"task {known['task_id']}: " if "task_id" in known else ""
        facts = [f" {name}={_shown(value)}" for name, value in known.items() if name != "task_id"]
        line = f"{at} {record.levelname} {task}{message}{''.join(facts)}"
        return line if line.isprintable() else _printable(line)


class JsonFormatter(LineFormatter):
    """For programs: one object with the time, the level, the logger, the message and the facts, all in ASCII."""

    def _line(self, at: str, record: logging.LogRecord, message: str, known: Mapping[str, object]) -> str:
        line = {"time": at, "level": record.levelname, "logger": record.name, "message": message, **known}
        return _ASCII.encode(line).replace("\x7f", "\\u007f")


FORMATTERS: Final[Mapping[LogFormat, type[LineFormatter]]] = {"text": TextFormatter, "json": JsonFormatter}


def _bounded(value: Any) -> Any:
    """A fact, or the beginning of a long one. What no encoding can write (a lone surrogate) is escaped."""
    if not isinstance(value, str):
        return value
    if not value.isascii():
        value = value.encode(errors="backslashreplace").decode()
    return value if len(value) <= _LONGEST else value[:_LONGEST] + "…"


def _shown(value: object) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _printable(text: str) -> str:
    """The same with every character that does not print written as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
