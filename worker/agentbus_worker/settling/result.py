"""Builds the result message of a task, and stores what its output has beyond that."""

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Final

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import BusError
from agentbus.protocol.ids import make_result_id
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.messages import Result, new_result
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.incoming import Incoming
from agentbus.tasks.output_store import chunk_bytes, put_file
from agentbus_worker.disk.file_pieces import file_pieces
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.output import Output
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.outcome import Outcome, decode_output, output_note
from agentbus_worker.settling.result_size import fit

TRANSCRIPT_SUFFIX: Final = ".transcript"
"""What the name of the file with the events of an agent has after the id of the result."""
_LEDGER_SLACK: Final = 8_192
"""Room for the fields of the ledger entry and the headers around the result message."""
_MAX_JSON_CHAR_BYTES: Final = 6
"""The most bytes of a character in JSON: only a message that could be too large is encoded to measure it."""


def result_message(
    context: Context, delivery: Delivery, incoming: Incoming, outcome: Outcome, nonce: str, entry: Entry
) -> Result:
    """Build the result from the task as it was received, the outcome, the worker, the attempt and those before it.

    It names the owner, unless that is `main`: no field of the message can.
    """
    key = incoming.key
    earlier = {"earlier_runs": entry.earlier.to_json()} if entry.earlier else {}
    result = new_result(
        incoming.task.to_json(),
        result_id=make_result_id(key.agent, key.id, nonce),
        status=outcome.status,
        result=outcome.text,
        error=outcome.error,
        failure=outcome.failure,
        extra={**key.owner_field, "worker": context.instance, "attempt": entry.attempt, **earlier, **outcome.extra},
    )
    room = context.bus.max_message_bytes - _LEDGER_SLACK
    chars = len(delivery.data) + len(outcome.text) + len(outcome.error or "") + len(str(outcome.extra))
    return result if _MAX_JSON_CHAR_BYTES * chars < room - _LEDGER_SLACK else fit(result, room)


async def with_stored_output(
    context: Context, key: TaskKey, nonce: str, outcome: Outcome, stdout: Output, log: TaskLog
) -> Outcome:
    """Store output that is too large for the result, or full of frames, and refer to it in the outcome; log a failure.

    The text of the outcome is then the output without its frames. Where the output is the events of an agent, it is
    stored as the transcript, and the text is what the agent said last.
    """
    if outcome.transcript:
        return await _with_transcript(context, key, nonce, outcome, stdout, log)
    if not stdout.truncated and stdout.folded is None:
        return outcome
    note, text = output_note(stdout), outcome.text
    if stdout.folded is not None:
        text, note = decode_output(stdout.folded), {**note, "kept": len(stdout.folded), "folded": True}
    if stdout.truncated and stdout.spilled is None:
        log.warning("its output is kept only in part: %s", _why_not_spilled(context, stdout))
        return replace(outcome, text=text, extra={**outcome.extra, "output": note})
    name = make_result_id(key.agent, key.id, nonce)
    try:
        stored = await put_file(context.bus, key.agent, name, _stored(context, stdout), owner=key.owner)
        note["file"] = {"bucket": stored.bucket, "name": stored.name}
    except (BusError, OSError) as error:
        if not stdout.truncated:
            return outcome  # it has all of the output, frames and all
        log.warning("its output is kept only in part: %s", error)
    return replace(outcome, text=text, extra={**outcome.extra, "output": note})


async def _with_transcript(
    context: Context, key: TaskKey, nonce: str, outcome: Outcome, stdout: Output, log: TaskLog
) -> Outcome:
    """Store what an agent printed, and its last message where that is too long for the result; log a failure."""
    name, text = make_result_id(key.agent, key.id, nonce), outcome.text
    extra = {**outcome.extra, "transcript": {"bytes": stdout.size, "sha256": stdout.sha256}}
    whole = text.encode(errors="replace")
    limit = context.config.worker.inline_output_bytes
    try:
        if len(whole) > limit:
            text = whole[:limit].decode(errors="ignore")
            extra["output"] = note = _cut_note(whole, text)
            pieces = _slices(whole, chunk_bytes(context.bus))
            stored = await put_file(context.bus, key.agent, name, pieces, owner=key.owner)
            extra["output"] = {**note, "file": {"bucket": stored.bucket, "name": stored.name}}
        if stdout.truncated and stdout.spilled is None:
            log.warning("its transcript is not kept: %s", _why_not_spilled(context, stdout))
        elif stdout.size:
            transcript = f"{name}{TRANSCRIPT_SUFFIX}"
            stored = await put_file(context.bus, key.agent, transcript, _stored(context, stdout), owner=key.owner)
            extra["transcript"] = {"name": stored.name, **extra["transcript"]}
    except (BusError, OSError) as error:
        log.warning("its transcript is not kept: %s", error)
    return replace(outcome, text=text, extra=extra)


def _cut_note(whole: bytes, kept: str) -> dict[str, Json]:
    """Describe a last message of which the result has the beginning."""
    digest = hashlib.sha256(whole).hexdigest()
    return {"truncated": True, "bytes": len(whole), "kept": len(kept.encode()), "sha256": digest}


def _stored(context: Context, stdout: Output) -> AsyncGenerator[bytes]:
    """Yield all of an output in pieces of the size of a chunk."""
    size, spilled = chunk_bytes(context.bus), stdout.spilled
    return _slices(stdout.head, size) if spilled is None else file_pieces(spilled, size, context.disk.state)


def _why_not_spilled(context: Context, stdout: Output) -> str:
    limit = context.config.worker.max_output_bytes
    if stdout.size > limit:
        return f"{stdout.size} bytes of output are more than max_output_bytes ({limit})"
    return f"it could not be written to {context.state_folder.tmp}"


async def _slices(data: bytes, size: int) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
