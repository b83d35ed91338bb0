"""Builds the result message of a task, and shortens it to the size limit of a message."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import BusError
from agentbus.protocol.ids import make_result_id
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.messages import Result, new_result
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.incoming import Incoming
from agentbus.tasks.output_store import chunk_bytes, put_file
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.command import Output
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.outcome import Outcome

_LEDGER_SLACK: Final = 8_192
"""Room for the fields of the ledger entry and the headers around the result message."""
_MAX_JSON_CHAR_BYTES: Final = 6
"""The most bytes of a character in JSON: only a message that could be too large is encoded to measure it."""
_NOTE_GROWTH: Final = 32
"""Bytes by which the note about the kept size may grow when its number replaces 0."""
_LEFT_OUT: Final[Json] = {"fmt": "text", "content": "[left out by agentbus: too large to be sent back]"}
_ROUTING: Final = ("id", "from", "to", "reply_to", "type", "task_type", "created_at")
_ROUTING_FIELD_BYTES: Final = 256
_ERROR_BYTES: Final = 1_000


def result_message(
    context: Context, delivery: Delivery, incoming: Incoming, outcome: Outcome, nonce: str, attempt: int
) -> Result:
    """Build the result from the task as it was received, the outcome, the worker and the attempt.

    It names the owner, unless that is `main`: no field of the message can.
    """
    key = incoming.key
    result = new_result(
        incoming.task.to_json(),
        result_id=make_result_id(key.agent, key.id, nonce),
        status=outcome.status,
        result=outcome.text,
        error=outcome.error,
        failure=outcome.failure,
        extra={**key.owner_field, "worker": context.instance, "attempt": attempt, **outcome.extra},
    )
    room = context.bus.max_message_bytes - _LEDGER_SLACK
    chars = len(delivery.data) + len(outcome.text) + len(outcome.error or "")
    return result if _MAX_JSON_CHAR_BYTES * chars < room - _LEDGER_SLACK else fit(result, room)


async def with_stored_output(
    context: Context, key: TaskKey, nonce: str, outcome: Outcome, stdout: Output, log: TaskLog
) -> Outcome:
    """Store output that is too large for the result, and refer to it in the outcome; log if that fails."""
    if stdout.spilled is None:
        if stdout.truncated:
            log.warning("its output is kept only in part: %s", _why_not_spilled(context, stdout))
        return outcome
    name = make_result_id(key.agent, key.id, nonce)
    note = dict(outcome.extra.get("output") or {})
    try:
        pieces = _pieces(stdout.spilled, chunk_bytes(context.bus))
        stored = await put_file(context.bus, key.agent, name, pieces, owner=key.owner)
        note["file"] = {"bucket": stored.bucket, "name": stored.name}
    except (BusError, OSError) as error:
        log.warning("its output is kept only in part: %s", error)
    return replace(outcome, extra={**outcome.extra, "output": note})


def _why_not_spilled(context: Context, stdout: Output) -> str:
    limit = context.config.worker.max_output_bytes
    if stdout.size > limit:
        return f"{stdout.size} bytes of output are more than max_output_bytes ({limit})"
    return f"it could not be written to {context.state_folder.tmp}"


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(size):
            yield piece


# -- results that fit -------------------------------------------------------------------------------------------


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
    shorter = result.model_copy(update={"task": {**route, "payload": _LEFT_OUT}})
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
