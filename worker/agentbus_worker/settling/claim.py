"""Turn a delivery into a claimed job, or do what else the ledger calls for."""

from typing import Final

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import CorruptEntryError, MessageError
from agentbus.observability import tracing
from agentbus.protocol.ids import random_token
from agentbus.protocol.ledger_entry import Claim as ClaimRecord
from agentbus.protocol.ledger_entry import Entry, NoEntry, Record, claimed, queued
from agentbus.protocol.messages import Task
from agentbus.protocol.timestamps import now
from agentbus.tasks.incoming import read_delivery
from agentbus.tasks.settle import Lost, Won, compare_and_set, publish_again, settle
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.dead_letter import store_dead_letter
from agentbus_worker.settling.decisions import (
    Claim,
    Leave,
    Policy,
    Republish,
    SettleCancelled,
    SettleExhausted,
    on_delivery,
)
from agentbus_worker.settling.job import Job
from agentbus_worker.settling.lease import Lease
from agentbus_worker.settling.outcome import Outcome, cancelled_outcome
from agentbus_worker.settling.result import result_message

_SHORTEST_NAK_S: Final = 0.5


async def claim(context: Context, delivery: Delivery) -> Job | None:
    """Decide what a delivery calls for, and do all of it that is not running the command.

    Returns a job to run, or None when the delivery has been settled, stored as a dead letter or handed back.

    Raises:
        BusError: it could not be decided; hand the delivery back.
    """
    try:
        incoming = read_delivery(delivery, context.agent, max_bytes=context.config.worker.max_task_bytes)
        task, job, done = incoming.task, None, False
        if task.id in context.held:
            # Its lease may have run out while the bus took no result. A worker never takes over from itself.
            await delivery.nak(_SHORTEST_NAK_S)
            return None
        fresh = queued(task, task.inbox(context.config.default_inbox))
        if delivery.num_delivered == 1:
            # The publisher told the revision of the ledger entry, or knows of no ledger: this claim is one round trip.
            job = await _try_claim(context, delivery, task, Claim(fresh, incoming.revision or 0, attempt=1))
        while job is None and not done:
            found = await context.ledger.read(context.agent, task.id)
            job, done = await _follow(context, delivery, task, found, fresh)
    except (MessageError, CorruptEntryError) as error:
        with tracing.settling(delivery.headers, agent=context.agent, worker=context.instance):
            tracing.outcome("dead", error="dead_letter", reason=str(error))
            if await store_dead_letter(
                context.bus, delivery, agent=context.agent, worker=context.instance, reason=str(error)
            ):
                context.metrics.count("dead letter")
        return None
    return job


async def _follow(
    context: Context, delivery: Delivery, task: Task, found: Record | NoEntry, fresh: Entry
) -> tuple[Job | None, bool]:
    """Do what one reading of the ledger calls for: (the claimed job, whether all is done without one).

    Neither means that another party wrote in between: read again.
    """
    wait_s = 0.0 if isinstance(found, NoEntry) else await context.lease_monitor.remaining_s(found)
    decision = on_delivery(found, fresh, wait_s=wait_s, policy=context.policy)
    match decision:
        case Claim():
            return await _try_claim(context, delivery, task, decision), False
        case SettleCancelled() | SettleExhausted():
            with tracing.settling(delivery.headers, agent=context.agent, worker=context.instance, task_id=task.id):
                return None, await _settle_unrun(context, delivery, task, decision)
        case Republish(record):
            await publish_again(context.bus, record)
            await delivery.ack()
            TaskLog(task.id).info("its result was there already; acknowledged", redeliveries=delivery.num_delivered - 1)
        case Leave():
            await delivery.nak(max(_SHORTEST_NAK_S, wait_s))
            TaskLog(task.id).debug("not ours now; looking again in %.1f s", wait_s)
    return None, True


async def _try_claim(context: Context, delivery: Delivery, task: Task, decision: Claim) -> Job | None:
    """Claim by compare-and-set; None if another party was faster, so that the ledger must be read again."""
    entry = claimed(decision.base, _new_claim(context), decision.attempt)
    verdict = await compare_and_set(context.ledger, context.agent, task.id, entry, revision=decision.revision)
    if isinstance(verdict, Lost):
        return None
    lease = Lease(context.ledger, delivery, context.agent, task.id, verdict.entry, verdict.revision)
    lost = decision.base.claim if decision.base.state == "working" else None
    if lost is not None:
        context.metrics.count("takeover")
    return Job(context, delivery, task, lease, taken_from=lost.worker if lost else None)


def _new_claim(context: Context) -> ClaimRecord:
    return ClaimRecord(worker=context.instance, nonce=random_token(), lease_s=context.lease_s, since=now())


def _why_no_further(entry: Entry, policy: Policy) -> str:
    """Why a task is not tried again, from what is known of its attempts."""
    if entry.state == "working" and entry.attempt < policy.max_attempts:
        return f"the worker was lost while it ran the task (attempt {entry.attempt}), which is no reason to try again"
    if entry.last_failure is None and entry.attempt > 1:
        return f"attempts exhausted: {entry.attempt} workers were lost while they ran it"
    lost = "the worker was lost while it ran the task" if entry.state == "working" else ""
    earlier = f"an attempt before: {entry.last_failure}" if entry.last_failure else ""
    return f"attempts exhausted ({entry.attempt}): " + "; ".join(part for part in (lost, earlier) if part)


async def _settle_unrun(
    context: Context, delivery: Delivery, task: Task, decision: SettleCancelled | SettleExhausted
) -> bool:
    """Settle a task that no worker runs, then ack. False if another party wrote in between: read again."""
    base = decision.base
    if isinstance(decision, SettleCancelled):
        outcome = cancelled_outcome(base)
    else:
        why = _why_no_further(base, context.policy)
        outcome = Outcome("failed", "", why, reason=why)
    new_claim = _new_claim(context)
    result = result_message(context, delivery, task, outcome, new_claim.nonce, base.attempt)
    base = base.model_copy(update={"claim": new_claim})
    verdict = await settle(context.bus, context.agent, task.id, base, result, revision=decision.revision)
    if not isinstance(verdict, Won):
        return False
    tracing.outcome(outcome.status, error="unrun" if outcome.status == "failed" else None, reason=outcome.error)
    await delivery.ack()
    context.metrics.settled(outcome.status)
    TaskLog(task.id).info(
        "settled without being run", status=outcome.status, reason=outcome.reason, attempt=base.attempt
    )
    return True
