"""Stores messages that the worker cannot accept as dead letters, with their bytes and the reason."""

import hashlib
import logging
from contextlib import suppress
from typing import Any, Final, cast

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import BusError, CorruptEntryError, MessageError, StreamFullError
from agentbus.observability import tracing
from agentbus.protocol import ids, subjects
from agentbus.protocol.headers import (
    DEAD_AGENT,
    DEAD_ORIGIN,
    DEAD_ORIGIN_MSG_ID,
    DEAD_REASON,
    DEAD_SHA256,
    DEAD_SIZE,
    DEAD_TIME,
    DEAD_WORKER,
    LEDGER_REVISION,
    MSG_ID,
    REVISION,
    number,
)
from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.ledger_entry import Entry, Record
from agentbus.protocol.messages import MAX_ADDRESS_CHARS, MAX_TASK_TYPE_CHARS, Failure, Result, new_result
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.inbox import publish_result
from agentbus.tasks.settle import Won, publish_again
from agentbus_worker.log.lines import fields
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.result_size import fit, in_a_size_that_is_taken, settle_in_a_size_that_is_taken

log = logging.getLogger("agentbus.worker")

_HEADERS_BYTES: Final = 4_096
_REASON_CHARS: Final = 500
_RETRY_S: Final = 5.0
_MOST_REMEMBERED: Final = 2000
"""How many stored letters a worker remembers: the bus has up to 1000 messages of each consumer under way."""
SHORTEST_NAK_S: Final = 0.5
"""The shortest delay of a nak for a task that another worker may hold."""


class _LeaseHeldError(Exception):
    """Control flow of this module: another worker may hold the task for `wait_s` more seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


async def store_dead_letter(context: Context, delivery: Delivery, reason: str) -> bool:
    """Store the raw message in AGENT_DEAD, notify its sender, and then terminate the delivery.

    Where AGENT_DEAD is full the sender is notified all the same, and the delivery ends: messages that come back again
    and again would take the place of tasks.

    Returns False if that cannot be done now; the message is delivered again later.
    """
    where = f"{delivery.stream}.{delivery.stream_seq}"
    try:
        kept = context.dead_letters.get(where) or await _keep(context, delivery, where, reason)
        if len(context.dead_letters) >= _MOST_REMEMBERED:
            context.dead_letters.clear()
        context.dead_letters[where] = kept  # this message may come back more often than the bus remembers its id
        await _notify_sender(context, delivery, reason)
        await delivery.term(_header_value(reason))
        context.dead_letters.pop(where, None)
    except _LeaseHeldError as held:
        log.info("message %s is not a valid task (%s), but a worker may hold its task; looking again in %.1f s",
                 where, reason, held.wait_s)  # fmt: skip
        await delivery.nak(held.wait_s)
        return False
    except BusError as error:
        log.error("message %s is not a valid task (%s), and cannot be stored as a dead letter yet: %s",
                  where, reason, error)  # fmt: skip
        await delivery.nak(_RETRY_S)
        return False
    if kept:
        log.warning("message %s is not a valid task and was %s: %s", where, kept, reason, extra=fields(reason=reason))
    else:
        log.error("message %s is not a valid task (%s), and was not kept, because %s is full: remove dead letters, or "
                  "raise its max_bytes", where, reason, subjects.DEAD_STREAM, extra=fields(reason=reason))  # fmt: skip
    return True


async def _keep(context: Context, delivery: Delivery, where: str, reason: str) -> str:
    """Store a dead letter; without its content if there is no room for that.

    Returns how it was kept, in words; nothing if the stream takes not even that.

    Raises:
        BusError: it cannot be stored now, for another reason than that the stream is full.
    """
    headers = {
        DEAD_REASON: _header_value(reason),
        DEAD_AGENT: context.agent,
        DEAD_WORKER: context.instance,
        DEAD_TIME: now(),
        DEAD_ORIGIN: where,
        DEAD_ORIGIN_MSG_ID: _header_value(delivery.headers.get(MSG_ID, "")),
        DEAD_SIZE: str(len(delivery.data)),
        DEAD_SHA256: hashlib.sha256(delivery.data).hexdigest(),
        **tracing.headers(),
    }
    subject = subjects.dead(context.agent, _publisher(context, delivery))
    whole = delivery.data[: context.bus.max_message_bytes - _HEADERS_BYTES]
    for data, kept in ((whole, "kept as a dead letter"), (b"", "kept as a dead letter without its content")):
        with suppress(StreamFullError):
            await context.bus.store(subject, data, msg_id=f"dead.{where}", headers=headers)
            return kept
    return ""


def _publisher(context: Context, delivery: Delivery) -> str:
    return subjects.publisher_of(delivery.subject, context.agent) or COORDINATOR


async def _notify_sender(context: Context, delivery: Delivery, reason: str) -> None:
    """Send a `failed` result if the message has an id and an inbox, after it is committed to the ledger.

    Without a ledger entry, as with a foreign publisher, there is no other result that it could conflict with.

    Raises:
        _LeaseHeldError: another worker may hold the task.
        BusError: not decided; call again.
    """
    task = _readable_object(delivery.data)
    if task is None or not isinstance(task.get("id"), str) or not task["id"]:
        return
    key = TaskKey(context.agent, task["id"], _publisher(context, delivery))
    inbox = _inbox_of(task) if key.owner == COORDINATOR else key.owner
    if inbox is None:
        return
    # Derived from the stored message, so that another delivery of it has the same id.
    origin = hashlib.sha256(f"{delivery.stream}.{delivery.stream_seq}.{delivery.stored_at}".encode()).hexdigest()[:20]
    result = new_result(
        task,
        result_id=f"result-{context.agent}-rejected-{origin}",
        status="failed",
        error=f"not accepted: {reason}",
        failure=Failure("rejected", f"not accepted: {reason}"),
        extra={**key.owner_field, "worker": context.instance},
    )
    message = fit(result, context.bus.max_message_bytes - _HEADERS_BYTES)
    if not subjects.is_task_id(task["id"]) or not await _settle_task(context, delivery, task, key, inbox, message):
        await in_a_size_that_is_taken(message, lambda shorter: publish_result(context.bus, inbox, shorter.to_json()))


def _inbox_of(task: dict[str, Json]) -> str | None:
    names = (task.get("reply_to"), task.get("from"))
    return next((subjects.agent_id(name) for name in names if subjects.is_agent_id(name)), None)


async def _settle_task(
    context: Context, delivery: Delivery, task: dict[str, Json], key: TaskKey, inbox: str, result: Result
) -> bool:
    """Settle the task as failed if its ledger entry was made for this message.

    Another message with the same id must not settle the task. If the task has its result by now, from a worker that
    accepts larger tasks, that result is published again in case its worker could not.

    Returns False if the ledger has no entry of the task.
    """
    written = _entry_written_at(delivery)
    while True:
        try:
            found = await context.ledger.read_newer(key, written - 1, timeout_s=context.bus.lag_s)
        except CorruptEntryError as error:
            base, revision = _replacement_entry(task, inbox), error.revision
            left_s = await context.lease_monitor.lease_left_s(key, revision, error.changed_at, context.lease_s)
        else:
            if not isinstance(found, Record):
                return False
            if not _is_message_of(delivery, found):
                return True
            if found.entry.terminal:
                await publish_again(context.bus, found)
                return True
            base, revision = found.entry, found.revision
            left_s = await context.lease_monitor.remaining_s(found) if base.state == "working" else 0.0
        if left_s > 0:
            raise _LeaseHeldError(max(SHORTEST_NAK_S, left_s))
        if isinstance(await settle_in_a_size_that_is_taken(context.bus, key, base, result, revision), Won):
            return True


def _entry_written_at(delivery: Delivery) -> int:
    """Return the revision that the publisher gives of the entry of a message; 0 where it gives none."""
    return number(delivery.headers.get(REVISION, "") or delivery.headers.get(LEDGER_REVISION, "")) or 0


def _is_message_of(delivery: Delivery, record: Record) -> bool:
    """Return whether an entry was made for this message: the message id contains the random part of the entry.

    An entry of an older publisher has no random part. Then the revision in the header decides, while it is unchanged.
    """
    publication = record.entry.publication
    if delivery.headers.get(MSG_ID) != ids.task_msg_id(record.key, publication):
        return False
    revision = number(delivery.headers.get(LEDGER_REVISION, ""))
    return publication is not None or record.entry.terminal or revision == record.revision


def _replacement_entry(task: dict[str, Json], inbox: str) -> Entry:
    """Return an entry that replaces an unreadable one, from the fields of the message."""

    def text(name: str, limit: int) -> str:
        found = task.get(name)
        return (found if isinstance(found, str) else "")[:limit] or "unknown"

    return Entry(
        state="queued",
        digest="",
        sender=text("from", MAX_ADDRESS_CHARS),
        inbox=inbox,
        task_type=text("task_type", MAX_TASK_TYPE_CHARS),
    )


def _readable_object(data: bytes) -> dict[str, Json] | None:
    try:
        found = decode(data)
        decode(encode({"result": {"task": found}}))  # the result and the ledger entry embed it, and must be readable
    except MessageError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _header_value(text: str) -> str:
    """Make a header value of a text: ASCII, one line, bounded."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())[:_REASON_CHARS]
