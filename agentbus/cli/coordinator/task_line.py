"""Reads lines of JSON as tasks that are to be published, for `agentbus task publish --lines`."""

import codecs
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from agentbus.errors import MessageError
from agentbus.many_tasks import NewTask
from agentbus.protocol.json_codec import Json, decode, refuse_changes
from agentbus.protocol.messages import PayloadFormat
from agentbus.protocol.work.file_names import name_fault
from agentbus.protocol.work.task_work import MAX_FILES
from agentbus.task_handle import DEFAULT_TASK_TYPE

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Of one line: twice the largest task of a bus as `agentbus init` makes it, because JSON may escape characters."""
_TEXTS: Final = ("to", "task_type", "task_id", "from", "reply_to", "payload_fmt", "group", "base", "branch")
_FIELDS: Final = ("content", *_TEXTS, "files")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the input: its number, from 1 on, and its text; None if it is longer than a line may be."""

    number: int
    data: bytes | None


class LineSplitter:
    """Splits what is read into lines, and drops what a line has beyond its bound."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._number = 0
        self._too_long = False

    def feed(self, piece: bytes) -> Generator[Line]:
        """Yield the lines that end in the next piece of the input; an empty one is its end."""
        *ended, rest = (piece or b"\n").split(b"\n")
        for part in ended:
            self._hold(part)
            self._number += 1
            yield Line(self._number, None if self._too_long else bytes(self._held))
            self._held.clear()
            self._too_long = False
        self._hold(rest)

    def _hold(self, part: bytes) -> None:
        if len(self._held) + len(part) > self._max_bytes:
            self._too_long = True
            self._held.clear()
        elif not self._too_long:
            self._held += part


def read_task(line: Line, defaults: Mapping[str, str], folder: Path | None = None) -> NewTask:
    """Read the task in a line.

    Args:
        defaults: what a line means that leaves a field out.
        folder: the one below which lines may name files; None if they may name none.

    Raises:
        MessageError: it is no task; the message says why.
    """
    if line.data is None:
        raise MessageError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    fields = _object(line.data)
    if unknown := [name for name in fields if name not in _FIELDS]:
        raise MessageError(f"unknown field {unknown[0][:60]!r}; there are {', '.join(_FIELDS)}")
    given = {name: _text(fields, name) for name in _TEXTS}
    texts = {**defaults, **{name: text for name, text in given.items() if text is not None}}
    if "to" not in texts:
        raise MessageError("to is missing: name it in the line, or with --to")
    return NewTask(
        texts["to"],
        _content(fields),
        texts.get("task_type", DEFAULT_TASK_TYPE),
        _payload_fmt(texts.get("payload_fmt", "text")),
        texts.get("from"),
        texts.get("reply_to"),
        texts.get("task_id"),
        texts.get("group"),
        _files(fields, folder),
        texts.get("base"),
        texts.get("branch"),
    )


def _files(fields: dict[str, Json], folder: Path | None) -> tuple[Path, ...]:
    """Return the paths of the files of a line: who has written it may not be who owns the files of this machine."""
    value = fields.get("files")
    if value is None:
        return ()
    listed = cast("list[Json]", value) if isinstance(value, list) else []
    names = [name for name in listed if isinstance(name, str)]
    if not listed or len(names) != len(listed) or len(names) > MAX_FILES:
        raise MessageError(f"files is no list of 1 to {MAX_FILES} strings")
    if folder is None:
        raise MessageError("files: name the folder below which lines may name files, with --attach")
    return tuple(_below(Path(os.path.realpath(folder)), name) for name in names)


def _below(folder: Path, name: str) -> Path:
    if (fault := name_fault(name)) is not None:
        raise MessageError(f"files: {name[:200]!r} is no name of a file or folder below that of --attach: {fault}")
    if Path(os.path.realpath(folder / name)) != folder / name:
        raise MessageError(f"files: {name[:200]!r} leads through a link")
    return folder / name


def _payload_fmt(text: str) -> PayloadFormat:
    if text not in ("text", "json"):
        raise MessageError("payload_fmt is neither text nor json")
    return text


def _content(fields: dict[str, Json]) -> Json:
    if "content" not in fields:
        raise MessageError("content is missing")
    content = fields["content"]
    if isinstance(content, str) and not content.strip():
        raise MessageError("the content is empty; an agent would be started for nothing")
    return content


def _object(data: bytes) -> dict[str, Json]:
    text = data.removeprefix(codecs.BOM_UTF8)  # as files have at their beginning, also where several are joined
    value = decode(text)
    if not isinstance(value, dict):
        raise MessageError("the line is no JSON object")
    refuse_changes(text)
    return cast("dict[str, Json]", value)


def _text(fields: dict[str, Json], name: str) -> str | None:
    """Return a field that is a text; null is left out, as by programs that write every field."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise MessageError(f"{name} is not a string")
    return value
