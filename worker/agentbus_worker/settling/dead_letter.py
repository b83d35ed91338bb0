"""Keep what no worker could accept, with its bytes and the reason; drop nothing."""

import hashlib
import logging
from typing import Any, Final, cast

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import BusError, CorruptEntryError, MessageError
from agentbus.observability import tracing
from agentbus.protocol import subjects
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
    number,
)
from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.messages import Result, new_result
from agentbus.protocol.timestamps import now
from agentbus.tasks.inbox import publish_result
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.settle import Won, publish_again, settle
from agentbus_worker.log.lines import facts
from agentbus_worker.settling.result import fit

log = logging.getLogger("agentbus.worker")

_HEADERS_BYTES: Final = 4_096
_REASON_CHARS: Final = 500
_RETRY_S: Final = 5.0


async def store_dead_letter(bus: Bus, delivery: Delivery, *, agent: str, worker: str, reason: str) -> bool:
    """Store the raw message in AGENT_DEAD, tell its sender, and only then end its delivery.

    Returns False if it cannot be stored there now; the message is handed back and tried again later.
    """
    where = f"{delivery.stream}.{delivery.stream_seq}"
    room = bus.max_message_bytes - _HEADERS_BYTES
    headers = {
        DEAD_REASON: _header(reason),
        DEAD_AGENT: agent,
        DEAD_WORKER: worker,
        DEAD_TIME: now(),
        DEAD_ORIGIN: where,
        DEAD_ORIGIN_MSG_ID: _header(delivery.headers.get(MSG_ID, "")),
        DEAD_SIZE: str(len(delivery.data)),
        DEAD_SHA256: hashlib.sha256(delivery.data).hexdigest(),
        **tracing.headers(),
    }
    try:
        await bus.store(subjects.dead(agent), delivery.data[:room], msg_id=f"dead.{where}", headers=headers)
        await _tell_sender(bus, delivery, agent=agent, worker=worker, reason=reason)
        await delivery.term(reason)
    except BusError as error:
        log.error("message %s is not a valid task (%s), and cannot be stored as a dead letter yet: %s",
                  where, reason, error)  # fmt: skip
        await delivery.nak(_RETRY_S)
        return False
    log.warning(
        "message %s is not a valid task and was kept as a dead letter: %s", where, reason, extra=facts(reason=reason)
    )
    return True


async def _tell_sender(bus: Bus, delivery: Delivery, *, agent: str, worker: str, reason: str) -> None:
    """Send a `failed` result where the message names an id and an inbox; settle the task in the ledger too."""
    task = _readable(delivery.data)
    if task is None or not isinstance(task.get("id"), str) or not task["id"]:
        return
    inbox = next(
        (subjects.agent_id(name) for name in (task.get("reply_to"), task.get("from")) if subjects.is_agent_id(name)),
        None,
    )
    if inbox is None:
        return
    # Made from the stored message itself: another delivery of the same one gets the same id.
    origin = hashlib.sha256(f"{delivery.stream}.{delivery.stream_seq}.{delivery.stored_at}".encode()).hexdigest()[:20]
    result = new_result(
        task,
        result_id=f"result-{agent}-rejected-{origin}",
        status="failed",
        error=f"not accepted: {reason}",
        extra={"worker": worker},
    )
    message = fit(result, bus.max_message_bytes - _HEADERS_BYTES)
    if not await _settle_task(bus, delivery, agent=agent, task_id=task["id"], result=message):
        await publish_result(bus, inbox, message.to_json())


async def _settle_task(bus: Bus, delivery: Delivery, *, agent: str, task_id: str, result: Result) -> bool:
    """Settle the task as failed if this is the very message that its ledger entry was made for.

    Another message that only bears the same id must not settle the task. If the task has its result by now (it was
    settled by a worker that accepts larger tasks), that result is published again in case its worker could not.

    Returns whether the sender has a result that the ledger holds.
    """
    revision = number(delivery.headers.get(LEDGER_REVISION, ""))
    genuine = subjects.is_task_id(task_id) and delivery.headers.get(MSG_ID) == subjects.task_msg_id(agent, task_id)
    if not genuine or revision is None:
        return False
    try:
        found = await Ledger(bus).read(agent, task_id)
    except CorruptEntryError:
        return False
    if isinstance(found, Record) and found.entry.terminal:
        await publish_again(bus, found)
        return True
    if not isinstance(found, Record) or found.entry.state != "queued" or found.revision != revision:
        return False
    return isinstance(await settle(bus, agent, task_id, found.entry, result, revision=revision), Won)


def _readable(data: bytes) -> dict[str, Json] | None:
    try:
        found = decode(data)
        decode(encode({"result": {"task": found}}))  # a result, and the ledger with it, must be readable again
    except MessageError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _header(text: str) -> str:
    """Text that may stand in a header: ASCII, one line, bounded."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())[:_REASON_CHARS]
