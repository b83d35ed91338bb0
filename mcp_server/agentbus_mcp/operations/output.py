"""Reads parts of outputs, from the result or, where it holds only the beginning, from the bucket of the agent.

Places in an output are counted in the bytes that the agent printed. A result that holds all of it has text only; there
they are counted in the text's UTF-8.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import anyio

from agentbus.concurrently import concurrently
from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import AgentBusError, ArgumentError, FileMissingError, MessageError, PermissionDeniedError
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.messages import Result
from agentbus.protocol.subjects import TaskKey
from agentbus_mcp.operations.characters import LOOK_BACK, first_start, last_start, text_of
from agentbus_mcp.sanitize import as_text

_MAX_SIZE: Final = 1 << 53
"""The largest size that every JSON reader keeps."""
_MOST_OF_A_BEGINNING: Final = 65_536
"""How much of an output is read for an answer that shows beginnings: no answer holds more of all outputs."""
_BEGINNINGS_S: Final = 5.0
"""How long all beginnings of an answer may take to read: the answer without them says where to read on."""
_READS_AT_ONCE: Final = 4
"""A file comes in pieces of half a megabyte, so only a few are read at the same time."""
_REPLACED: Final = "\ufffd"
_NO_UTF8: Final = b"\xff"
"""One byte that is no UTF-8, in place of one that is not known any more."""


@dataclass(frozen=True, slots=True)
class OutputPart:
    """A part of an output.

    Attributes:
        data: its bytes, which need not be UTF-8, in whole characters.
        total_bytes: the size of the whole output.
        offset: where `data` begins in it.
        readable_bytes: up to where it can be read by asking for other parts.
        artifact: the name of the file that the run has left, of which it is a part; None for the output.
    """

    data: bytes
    total_bytes: int
    offset: int = 0
    readable_bytes: int = 0
    artifact: str | None = None

    @property
    def text(self) -> str:
        """The text of the part; of all parts, joined, it is that of the output."""
        return text_of(self.data)


def output_of_result(result: Result, *, readable: bool = True) -> OutputPart:
    """The beginning of an output, as far as the result holds it, and tells where in the output it ends.

    Args:
        result: the result.
        readable: whether the rest can be read.
    """
    text = as_text(result.result)
    note = result.output_note
    folded = note.get("folded") is True  # the text is whole, without the frames of progress bars that the file has, too
    if readable and not folded and isinstance(object_in(note.get("file")).get("name"), str):
        data = _head(text, _size(note.get("kept")))
        total = max(len(data), _size(note.get("bytes")))
        return OutputPart(data, total, readable_bytes=total)
    data = text.encode()
    whole = 0 if folded else _size(note.get("bytes"))
    total = max(len(data), whole, len(data) + whole - _size(note.get("kept", len(data))))
    return OutputPart(data, total, readable_bytes=len(data) if readable else 0)


def _head(text: str, kept: int) -> bytes:
    """The bytes of the text of an output's first `kept` bytes, as far as it is known how many each character had.

    It is not known of U+FFFD, but where these must have had one byte each. A last one may be the beginning of a
    character.
    """
    replaced = text.count(_REPLACED)
    if len(text.encode()) - 2 * replaced == kept:
        return _NO_UTF8.join(part.encode() for part in text.removesuffix(_REPLACED).split(_REPLACED))
    return text.partition(_REPLACED)[0].encode()


def output_of_task(status: TaskStatus) -> OutputPart:
    """The beginning of a settled task's output; of an invalid result, its text."""
    try:
        result = status.result
    except MessageError:
        return output_of_text(as_text(status.record.entry.result))
    return output_of_result(result) if result else OutputPart(b"", 0)


def output_of_text(text: str) -> OutputPart:
    """A text as an output that cannot be read on."""
    data = text.encode()
    return OutputPart(data, len(data))


async def beginnings(coordinator: Coordinator, tasks: Sequence[TaskStatus]) -> dict[TaskKey, OutputPart]:
    """Read the beginnings of outputs from their files, where the result's text does not tell how many bytes it is of.

    They are what `output_of_task` tells of the output, and go on where that ends. One that cannot be read in time, or
    at all, is left out, and so is any task that needs none.
    """
    found: dict[TaskKey, OutputPart] = {}

    async def read(status: TaskStatus) -> None:
        kept = min(_size(status.output_note.get("kept")), _MOST_OF_A_BEGINNING)
        try:
            found[status.record.key] = await read_part(coordinator, status, 0, kept)
        except AgentBusError:
            return

    with anyio.move_on_after(_BEGINNINGS_S):
        await concurrently(filter(is_unsure, tasks), read, at_once=_READS_AT_ONCE)
    return found


async def read_part(coordinator: Coordinator, status: TaskStatus, offset: int, max_bytes: int) -> OutputPart:
    """Read a part of a settled task's output, in bounded memory.

    It begins at `offset`, or at the next character, and has `max_bytes` or more, as far as there are.

    Raises:
        ArgumentError: the output ends before `offset`.
        BusError: the whole cannot be read.
    """
    held = output_of_task(status)
    if offset > held.total_bytes:
        raise ArgumentError(f"offset: {offset} is beyond the end; this output has {held.total_bytes} bytes")
    if held.readable_bytes > len(held.data) and offset + max_bytes > len(held.data):
        try:
            pieces = coordinator.task(str(status.name)).output()
            return await read_pieces(pieces, offset, max_bytes, held.total_bytes)
        except (PermissionDeniedError, FileMissingError):
            held = _without_file(status, held)
            if offset >= len(held.data):
                raise
    start = first_start(held.data, min(offset, len(held.data)))
    return replace(held, data=held.data[start:], offset=start)


def _without_file(status: TaskStatus, held: OutputPart) -> OutputPart:
    """What a result holds of its output, as there is no more; where its bytes are not known, in those of the text."""
    if status.result is not None and is_unsure(status):
        held = output_of_result(status.result, readable=False)
    return replace(held, readable_bytes=len(held.data))


def is_unsure(status: TaskStatus) -> bool:
    """Whether a result has text behind the place up to which its bytes are known; its file tells those."""
    try:
        result = status.result
    except MessageError:
        return False
    return result is not None and len(output_of_result(result).text) + 1 < len(as_text(result.result))


async def read_pieces(source: AsyncGenerator[bytes], offset: int, max_bytes: int, total: int) -> OutputPart:
    """Read a part of a stored file, which comes in pieces, and is closed afterwards.

    What is read begins a little before, to tell where its characters begin.
    """
    begin = max(0, offset - LOOK_BACK)
    wanted = LOOK_BACK + max_bytes + 2 * LOOK_BACK
    data, position = b"", 0
    async with aclosing(source) as pieces:
        async for piece in pieces:
            data += piece[max(0, begin - position) :]
            position += len(piece)
            if len(data) > wanted:
                data = data[: last_start(data[:wanted])]
                total = max(total, position)
                break
        else:
            total = position
    start = first_start(data, min(offset - begin, len(data)))
    return OutputPart(data[start:], total, begin + start, total)


def _size(value: Json) -> int:
    """The size that a worker states, where it sent only the beginning; 0 for anything that is no size."""
    return value if isinstance(value, int) and 0 <= value < _MAX_SIZE else 0
