"""Claims the task of a delivery, or settles, republishes or defers it, as its ledger entry requires."""

import asyncio
import logging
from typing import Final

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import (
    BusError,
    BusUnavailableError,
    CorruptEntryError,
    MessageError,
    PermissionDeniedError,
    StreamFullError,
)
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.ids import random_token
from agentbus.protocol.ledger_entry import Claim as EntryClaim
from agentbus.protocol.ledger_entry import Entry, NoEntry, Record, claimed, queued
from agentbus.protocol.messages import Failure
from agentbus.protocol.timestamps import now
from agentbus.tasks.incoming import Incoming, read_delivery
from agentbus.tasks.settle import Lost, Won, compare_and_set, publish_again
from agentbus_worker.claim_records import ClaimRecord
from agentbus_worker.conversations.own_place import HandBackError
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.pausing.pause import NOT_CLAIMED
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.dead_letter import SHORTEST_NAK_S, store_dead_letter
from agentbus_worker.settling.decisions import (
    Claim,
    CommitOutbox,
    Defer,
    Policy,
    Republish,
    SettleCancelled,
    SettleExhausted,
    on_delivery,
)
from agentbus_worker.settling.job import Job
from agentbus_worker.settling.lease import Lease
from agentbus_worker.settling.outbox import OutboxEntry
from agentbus_worker.settling.outcome import NOT_STARTED, OUT_OF_MEMORY, Outcome, cancelled_outcome
from agentbus_worker.settling.result import result_message
from agentbus_worker.settling.result_size import settle_in_a_size_that_is_taken
from agentbus_worker.settling.unsettled import commit_outcome

log = logging.getLogger("agentbus.worker")

_RETRY_S: Final = 2.0
_REFUSED_S: Final = 60.0
"""The longest delay after a refusal that only an operator can fix, such as a stream that does not exist."""


async def claim(context: Context, delivery: Delivery) -> Job | None:
    """Decide what to do with a delivery, and do it, except for running the command.

    Returns a job to run, or None if the delivery was settled, stored as a dead letter or returned to the queue.

    An invalid message or ledger entry, or a fault of this program while it reads one, makes a dead letter, because the
    next delivery would fail in the same way. An error of the bus or the machine does not.

    Raises:
        BusError, OSError, MemoryError: it could not be decided; nak the delivery.
    """
    try:
        return await _claim(context, delivery)
    except (MessageError, CorruptEntryError) as error:
        reason = str(error)
    except (BusError, OSError, MemoryError):
        raise
    except Exception as error:
        log.exception("a fault of this program, met while it read a task; please report it")
        reason = f"a fault of the worker while it read the task: {type(error).__name__}"
    with tracing.settling(delivery.headers, agent=context.agent, worker=context.instance):
        tracing.outcome("dead", error="dead_letter", reason=reason)
        if await store_dead_letter(context, delivery, reason):
            context.metrics.count("dead letter")
    return None


def kept_back_s(context: Context, delivery: Delivery, error: BusError | OSError | MemoryError) -> float:
    """Return how long a task that `claim` could not decide on is kept from all workers.

    Another worker may be able to do what this one is refused, so a task is not kept for long at first, and for longer
    with each delivery. A worker that may claim none pauses. It would otherwise be the quickest to take each task, and
    put off what others can do.
    """
    if isinstance(error, BusUnavailableError | StreamFullError):
        return _RETRY_S
    if isinstance(error, OSError | MemoryError):
        context.pause.begin(NOT_STARTED, OUT_OF_MEMORY if isinstance(error, MemoryError) else str(error))
        return 0.0
    states = subjects.states(context.agent)
    # The error has the subject as the server tells it, in lower case.
    if isinstance(error, PermissionDeniedError) and error.subject.startswith(states.removesuffix(">").lower()):
        reason = f"the bus does not let it claim tasks; an administrator must grant it {states}"
        context.pause.begin(NOT_CLAIMED, reason)
        return 0.0
    return min(_RETRY_S * delivery.num_delivered, _REFUSED_S)


async def _claim(context: Context, delivery: Delivery) -> Job | None:
    incoming = read_delivery(delivery, context.agent, max_bytes=context.config.worker.max_task_bytes)
    key = incoming.key
    if key in context.held:
        # Its lease may have expired while the bus stored no result. A worker never takes over from itself.
        await delivery.nak(SHORTEST_NAK_S)
        return None
    new_entry = queued(incoming.task, incoming.inbox(context.config.default_inbox), incoming.publication)
    try:
        conversation = await context.place.conversation(incoming, delivery)
    except HandBackError as back:
        await delivery.nak(back.delay_s)
        TaskLog(key.id).debug("%s", back)
        return None
    record = ClaimRecord(context.claims, key, random_token(), delivery.reply)
    job = None
    try:
        job = await _decide(context, delivery, incoming, new_entry, record)
    except CorruptEntryError as error:
        left_s = await context.lease_monitor.lease_left_s(key, error.revision, error.changed_at, context.lease_s)
        if left_s <= 0:
            raise
        # A worker that holds the task replaces the entry with its next renewal.
        await delivery.nak(max(SHORTEST_NAK_S, left_s))
        TaskLog(key.id).warning("%s; looking again in %.1f s", error, left_s)
    except BusUnavailableError:
        record.keep()  # it may have been claimed: the answer is lost
        TaskLog(key.id).warning("whether it was claimed is not known; that stays on record for the next worker here")
        raise
    finally:
        if job is None:
            record.remove()
            conversation.close()
        else:
            job.conversation = conversation
    return job


async def _decide(
    context: Context, delivery: Delivery, incoming: Incoming, new_entry: Entry, record: ClaimRecord
) -> Job | None:
    job, done = None, False
    if delivery.num_delivered == 1:
        # The revision of the ledger entry is in the message, or the publisher wrote none: claim in one round trip.
        job = await _try_claim(context, delivery, incoming, Claim(new_entry, incoming.revision or 0, attempt=1), record)
    while job is None and not done:
        found = await context.ledger.read(incoming.key)
        job, done = await _act_on(context, delivery, incoming, found, new_entry, record)
    return job


async def _act_on(
    context: Context,
    delivery: Delivery,
    incoming: Incoming,
    found: Record | NoEntry,
    new_entry: Entry,
    record: ClaimRecord,
) -> tuple[Job | None, bool]:
    """Act on a ledger entry; returns the claimed job, and whether all is done without one.

    With neither, another party has written the entry meanwhile: read it again.
    """
    wait_s = 0.0 if isinstance(found, NoEntry) else await context.lease_monitor.remaining_s(found)
    outcome, task_id = await _finished_outcome(context, found), incoming.key.id
    decision = on_delivery(found, new_entry, wait_s=wait_s, policy=context.policy, finished=outcome is not None)
    match decision:
        case Claim():
            return await _try_claim(context, delivery, incoming, decision, record), False
        case SettleCancelled() | SettleExhausted():
            with tracing.settling(delivery.headers, agent=context.agent, worker=context.instance, task_id=task_id):
                return None, await _settle_without_run(context, delivery, incoming, decision, record)
        case CommitOutbox(base, revision):
            assert outcome is not None, "only a finished outcome is committed"
            return None, await _settle_finished(context, delivery, base, revision, outcome)
        case Republish(settled):
            await publish_again(context.bus, settled)
            await delivery.ack()
            TaskLog(task_id).info("its result was there already; acknowledged", redeliveries=delivery.num_delivered - 1)
        case Defer():
            await delivery.nak(max(SHORTEST_NAK_S, wait_s))
            TaskLog(task_id).debug("not ours now; looking again in %.1f s", wait_s)
    return None, True


async def _finished_outcome(context: Context, found: Record | NoEntry) -> OutboxEntry | None:
    """Return the outcome of the very claim in an entry, if the command of that claim has ended on this machine."""
    if isinstance(found, NoEntry) or found.entry.state != "working" or found.entry.claim is None:
        return None
    return await context.outbox.of_claim(found.key, found.entry.claim.nonce)


async def _settle_finished(
    context: Context, delivery: Delivery, base: Entry, revision: int, outcome: OutboxEntry
) -> bool:
    """Settle a task by an outcome that the bus had refused, then ack; returns False if another party wrote first.

    What is finished is never run again, though its lease has expired and its attempt may be the last.
    """
    with tracing.resumed(outcome.trace):
        if not await commit_outcome(context.bus, base, revision, outcome):
            return False
    context.outbox.remove(outcome)
    await delivery.ack()
    context.metrics.count("stored late")
    TaskLog(outcome.task_id).info("its outcome was on this machine already; delivered", status=outcome.status)
    return True


async def _try_claim(
    context: Context, delivery: Delivery, incoming: Incoming, decision: Claim, record: ClaimRecord
) -> Job | None:
    """Claim by compare-and-set; None if another party wrote the entry first, so that it must be read again."""
    entry = claimed(decision.base, _new_claim(context, record), decision.attempt)
    started = asyncio.get_running_loop().time()
    verdict = await compare_and_set(context.ledger, incoming.key, entry, revision=decision.revision)
    if isinstance(verdict, Lost):
        return None
    await record.written()
    lease = Lease(
        context.ledger, delivery, incoming.key, verdict.entry, verdict.revision, record,
        since=started, timers=context.lease_timers,
    )  # fmt: skip
    lost = decision.base.claim if decision.base.state == "working" else None
    if lost is not None:
        context.metrics.count("takeover")
    return Job(context, delivery, incoming, lease, taken_from=lost.worker if lost else None)


def _new_claim(context: Context, record: ClaimRecord) -> EntryClaim:
    return EntryClaim(worker=context.instance, nonce=record.nonce, lease_s=context.lease_s, since=now())


def _why_exhausted(entry: Entry, policy: Policy) -> str:
    """Explain why a task is not tried again."""
    if entry.state == "working" and entry.attempt < policy.max_attempts:
        return f"the worker was lost while it ran the task (attempt {entry.attempt}), which is no reason to try again"
    if entry.last_failure is None and entry.attempt > 1:
        return f"attempts exhausted: {entry.attempt} workers were lost while they ran it"
    lost = "the worker was lost while it ran the task" if entry.state == "working" else ""
    earlier = f"an attempt before: {entry.last_failure}" if entry.last_failure else ""
    return f"attempts exhausted ({entry.attempt}): " + "; ".join(part for part in (lost, earlier) if part)


async def _settle_without_run(
    context: Context,
    delivery: Delivery,
    incoming: Incoming,
    decision: SettleCancelled | SettleExhausted,
    record: ClaimRecord,
) -> bool:
    """Settle a task without a run, then ack; returns False if another party wrote the entry first."""
    base = decision.base
    if isinstance(decision, SettleCancelled):
        outcome = cancelled_outcome(base)
    else:
        why = _why_exhausted(base, context.policy)
        lost = base.state == "working" or base.last_failure is None
        outcome = Outcome("failed", "", why, reason=why, failure=Failure("lost", why) if lost else None)
    new_claim = _new_claim(context, record)
    base = base.model_copy(update={"claim": new_claim, "earlier": base.earlier_with()})
    result = result_message(context, delivery, incoming, outcome, new_claim.nonce, base)
    verdict = await settle_in_a_size_that_is_taken(context.bus, incoming.key, base, result, decision.revision)
    if not isinstance(verdict, Won):
        return False
    tracing.outcome(outcome.status, error="unrun" if outcome.status == "failed" else None, reason=outcome.error)
    await delivery.ack()
    context.metrics.settled(outcome.status)
    TaskLog(incoming.key.id).info(
        "settled without being run", status=outcome.status, reason=outcome.reason, attempt=base.attempt
    )
    return True
