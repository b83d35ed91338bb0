"""Shortens a result to the size that is taken: that of a message, or less where the server takes less."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from agentbus.bus.jetstream import Bus
from agentbus.errors import TooLargeError
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.messages import Result
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.settle import Verdict, settle

_NOTE_GROWTH: Final = 32
"""Bytes by which the note about the kept size may grow when its number replaces 0."""
_LEFT_OUT: Final[Json] = {"fmt": "text", "content": "[left out by agentbus: too large to be sent back]"}
_ROUTING: Final = ("id", "from", "to", "reply_to", "type", "task_type", "created_at")
_ROUTING_FIELD_BYTES: Final = 256
_ERROR_BYTES: Final = 1_000
_SMALLEST_BYTES: Final = 1_024
"""A result of this size says little more than the status: a ledger that does not take it takes none."""
_T = TypeVar("_T")


def fit(result: Result, limit: int) -> Result:
    """Shorten a result to `limit` bytes of JSON (a few thousand at least), and state in it what was cut.

    First the text is cut. If the embedded task is too large even then (a publisher of agentbus would have refused it),
    its payload is left out, then all of the task except its routing fields.
    """
    cut = result
    for shorten in (_unchanged, _without_content, _with_routing_only):
        message = shorten(result)
        if _size(message) <= limit:
            return message
        bare = message.model_copy(update={"result": "", "output": _cut_note(result, 0)})
        room = limit - _size(bare) - _NOTE_GROWTH
        kept = _longest_prefix(str(result.result), room)
        cut = bare.model_copy(update={"result": kept, "output": _cut_note(result, len(kept.encode()))})
        if room >= 0:
            break
    return cut


async def in_a_size_that_is_taken(result: Result, store: Callable[[Result], Awaitable[_T]]) -> _T:
    """Call `store` with the result, and where that is too large with a result of half the size, and so on.

    A limit of the server may be lowered at any time, and a worker cannot read that of a stream.

    Raises:
        TooLargeError: not even the smallest is taken. And whatever `store` raises.
    """
    try:
        return await store(result)
    except TooLargeError:
        limit = _size(result)
    while True:
        limit = max(limit // 2, _SMALLEST_BYTES)
        try:
            return await store(fit(result, limit))
        except TooLargeError:
            if limit == _SMALLEST_BYTES:
                raise


async def settle_in_a_size_that_is_taken(bus: Bus, key: TaskKey, base: Entry, result: Result, revision: int) -> Verdict:
    """Commit and publish a result, made smaller where it must be; see `agentbus.tasks.settle.settle`."""
    return await in_a_size_that_is_taken(result, lambda shorter: settle(bus, key, base, shorter, revision=revision))


def _size(result: Result) -> int:
    return len(encode(result.to_json()))


def _unchanged(result: Result) -> Result:
    return result


def _without_content(result: Result) -> Result:
    return result.model_copy(update={"task": {**result.task, "payload": _LEFT_OUT}})


def _with_routing_only(result: Result) -> Result:
    """Keep the fields that identify the task, cut to a bounded length if the task is invalid."""
    task = result.task
    route = {
        name: _longest_prefix(task[name], _ROUTING_FIELD_BYTES) for name in _ROUTING if isinstance(task.get(name), str)
    }
    run = {"run": {"format": result.run.format}} if result.run else {}  # denied calls can be long
    shorter = result.model_copy(update={"task": {**route, "payload": _LEFT_OUT}, **run})
    if result.error is not None and len(encode(result.error)) > _ERROR_BYTES:
        shorter = shorter.model_copy(update={"error": _longest_prefix(result.error, _ERROR_BYTES) + "…"})
    return shorter


def _cut_note(result: Result, kept: int) -> dict[str, Json]:
    whole = str(result.result).encode()
    known = result.output_note or {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    return {**known, "truncated": True, "kept": kept}


def _longest_prefix(text: str, room: int) -> str:
    """Return the longest prefix of `text` whose JSON form has at most `room` bytes."""
    low, high = 0, min(len(text), max(0, room))
    while low < high:
        middle = (low + high + 1) // 2
        if len(encode(text[:middle])) - 2 <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low]
