"""Reads parts of outputs, from the result or, where it holds only the beginning, from the bucket of the agent."""

import codecs
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import ArgumentError, FileMissingError, MessageError, PermissionDeniedError
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.messages import Result
from agentbus_mcp.sanitize import as_text

_CONTINUATION: Final = bytes(range(0x80, 0xC0))
"""The bytes of UTF-8 that continue a character."""
_MAX_SIZE: Final = 1 << 53
"""The largest size that every JSON reader keeps."""


@dataclass(frozen=True, slots=True)
class OutputPart:
    """A part of an output.

    Attributes:
        total_bytes: the size of the whole output, as UTF-8.
        offset: where `text` begins in it, in bytes.
        readable_bytes: up to where it can be read by asking for other parts.
    """

    text: str
    total_bytes: int
    offset: int = 0
    readable_bytes: int = 0


def output_of_result(result: Result) -> OutputPart:
    """The beginning of an output, as far as the result holds it."""
    text = as_text(result.result)
    held = len(text.encode())
    note = result.output_note
    if note.get("folded") is True:  # the text is whole, without the frames of progress bars that the file has, too
        return OutputPart(text, held, readable_bytes=held)
    total = max(held, _size(note.get("bytes")))
    in_a_file = isinstance(object_in(note.get("file")).get("name"), str)
    if in_a_file:  # the beginning may end within a character, which the file has whole
        text = text.removesuffix("\ufffd")
    return OutputPart(text, total, readable_bytes=total if in_a_file else held)


def output_of_task(status: TaskStatus) -> OutputPart:
    """The beginning of a settled task's output; of an invalid result, its text."""
    try:
        result = status.result
    except MessageError:
        return output_of_text(as_text(status.record.entry.result))
    return output_of_result(result) if result else OutputPart("", 0)


def output_of_text(text: str) -> OutputPart:
    """A text as an output that cannot be read on."""
    return OutputPart(text, len(text.encode()))


async def read_part(coordinator: Coordinator, status: TaskStatus, offset: int, max_bytes: int) -> OutputPart:
    """Read a part of a settled task's output, in bounded memory.

    It begins at `offset`, or at the next character, and has `max_bytes` or more, as far as there are.

    Raises:
        ArgumentError: the output ends before `offset`.
        BusError: the whole cannot be read.
    """
    held = output_of_task(status)
    data = held.text.encode()
    if offset > max(held.total_bytes, len(data)):
        raise ArgumentError(f"offset: {offset} is beyond the end; this output has {held.total_bytes} bytes")
    if held.readable_bytes > len(data) and offset + max_bytes > len(data):
        try:
            return await _read_file(coordinator, status, offset, max_bytes, held.total_bytes)
        except (PermissionDeniedError, FileMissingError):
            if offset >= len(data):
                raise
            held = replace(held, readable_bytes=len(data))
    return _part(data[offset:], offset, held)


async def _read_file(
    coordinator: Coordinator, status: TaskStatus, offset: int, max_bytes: int, total: int
) -> OutputPart:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    data, position = b"", 0
    async with aclosing(coordinator.task(str(status.name)).output()) as pieces:
        async for piece in pieces:
            text = decoder.decode(piece).encode()
            data += text[max(0, offset - position) :]
            position += len(text)
            if len(data) > max_bytes:
                total = max(total, position)
                break
        else:
            rest = decoder.decode(b"", final=True).encode()
            data += rest[max(0, offset - position) :]
            total = position + len(rest)
    return _part(data, offset, OutputPart("", total, readable_bytes=total))


def _part(data: bytes, offset: int, whole: OutputPart) -> OutputPart:
    """The whole characters in `data`, which may begin and end within one."""
    characters = data.lstrip(_CONTINUATION) if offset else data
    begin = offset + len(data) - len(characters)
    return replace(whole, text=characters.decode(errors="ignore"), offset=begin)


def _size(value: Json) -> int:
    """The size that a worker states, where it sent only the beginning; 0 for anything that is no size."""
    return value if isinstance(value, int) and 0 <= value < _MAX_SIZE else 0
