"""One delivered task, from the claim to the acknowledgement.

The order is what keeps a result from being lost or doubled: claim by compare-and-set, run, commit the whole result to
the ledger by compare-and-set, publish it under an id that only this claim could know, and only then ack.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from agentbus import subjects
from agentbus.bus import Bus
from agentbus.config import INPUT_PLACEHOLDER, WorkerConfig
from agentbus.errors import (
    BusError,
    BusUnavailableError,
    CorruptEntryError,
    MessageError,
    StreamFullError,
    WrongRevisionError,
)
from agentbus.ledger import Claim as ClaimRecord
from agentbus.ledger import Entry, Ledger, Record, Vacant, claimed, queued, settled
from agentbus.messages import Json, Task, encode, make_result_id, new_result, now, random_token
from agentbus.pull import Delivery
from agentbus.tasks import read_delivery
from agentbus_worker.command import CommandError, run_command
from agentbus_worker.deadletter import bury
from agentbus_worker.lease import Lease, LeaseJudge, LeaseLostError
from agentbus_worker.outcome import Outcome, fit, of_exit
from agentbus_worker.prompt import build_prompt
from agentbus_worker.settlement import (
    Claim,
    Leave,
    Lost,
    Republish,
    SettleCancelled,
    SettleExhausted,
    Won,
    on_delivery,
    on_refusal,
)

log = logging.getLogger("agentbus.worker")

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_SHORTEST_NAK_S: Final = 0.5
_LEDGER_SLACK: Final = 8_192
"""What the ledger entry and the headers need around the result message."""


@dataclass(frozen=True, slots=True)
class Context:
    """What all jobs of one worker share."""

    bus: Bus
    ledger: Ledger
    judge: LeaseJudge
    config: WorkerConfig
    instance: str
    lease_s: float

    @property
    def agent(self) -> str:
        """The agent that this worker is."""
        return self.config.agent.id


async def claim(context: Context, delivery: Delivery) -> "Job | None":
    """Decide what a delivery calls for, and do all of it that is not running the command.

    Returns a job to run, or None when the delivery has been settled, buried or handed back.

    Raises:
        BusError: it could not be decided; hand the delivery back.
    """
    try:
        incoming = read_delivery(delivery, context.agent, max_bytes=context.config.worker.max_task_bytes)
        task, job, settled_ = incoming.task, None, False
        fresh = queued(task, task.inbox(context.config.default_inbox))
        if incoming.revision is not None and delivery.num_delivered == 1:
            # The publisher told the revision of the ledger entry: this claim is one round trip.
            job = await _try_claim(context, delivery, task, Claim(fresh, incoming.revision, attempt=1))
        while job is None and not settled_:
            found = await context.ledger.read(context.agent, task.id)
            job, settled_ = await _follow(context, delivery, task, found, fresh)
    except (MessageError, CorruptEntryError) as error:
        await bury(context.bus, delivery, agent=context.agent, worker=context.instance, reason=str(error))
        return None
    return job


async def _follow(
    context: Context, delivery: Delivery, task: Task, found: Record | Vacant, fresh: Entry
) -> "tuple[Job | None, bool]":
    """Carry out the decision on one reading of the ledger: (the claimed job, whether all is done without one).

    Neither means that somebody else wrote in between: read again.
    """
    remaining_s = 0.0
    if isinstance(found, Record) and found.entry.state == "working":
        remaining_s = await context.judge.remaining_s(found)
    decision = on_delivery(found, fresh, lease_over=remaining_s <= 0, max_attempts=context.config.worker.max_attempts)
    match decision:
        case Claim():
            return await _try_claim(context, delivery, task, decision), False
        case SettleCancelled() | SettleExhausted():
            return None, await _settle_unrun(context, delivery, task, decision)
        case Republish(result, inbox):
            await _publish_result(context.bus, inbox, result)
            await delivery.ack()
            log.info("task %s: its result was there already; acknowledged", task.id)
        case Leave():
            await delivery.nak(max(_SHORTEST_NAK_S, remaining_s))
            log.debug("task %s: its owner lives; looking again in %.1f s", task.id, remaining_s)
    return None, True


async def _try_claim(context: Context, delivery: Delivery, task: Task, decision: Claim) -> "Job | None":
    """Claim by compare-and-set; None if somebody was faster, so that the ledger must be read (again)."""
    mine = ClaimRecord(worker=context.instance, nonce=random_token(), lease_s=context.lease_s, since=now())
    entry = claimed(decision.base, mine, decision.attempt)
    try:
        revision = await context.ledger.write(context.agent, task.id, entry, revision=decision.revision)
    except WrongRevisionError:
        verdict = on_refusal(entry, await context.ledger.read(context.agent, task.id))
        if isinstance(verdict, Lost):
            return None
        entry, revision = verdict.entry, verdict.revision
    return Job(context, delivery, task, Lease(context.ledger, delivery, context.agent, task.id, entry, revision))


async def _settle_unrun(
    context: Context, delivery: Delivery, task: Task, decision: SettleCancelled | SettleExhausted
) -> bool:
    """Settle a task that nobody runs: one compare-and-set, then the result, then the ack. False: read again."""
    base = decision.base
    if isinstance(decision, SettleCancelled):
        outcome = cancelled_outcome(base)
    else:
        outcome = Outcome("failed", "", f"attempts exhausted: {base.attempt} workers were lost while they ran it")
    nonce = ClaimRecord(worker=context.instance, nonce=random_token(), lease_s=context.lease_s, since=now())
    result = _result(context, task, outcome, nonce.nonce, base.attempt)
    entry = settled(base.model_copy(update={"claim": nonce}), outcome.status, result)
    try:
        await context.ledger.write(context.agent, task.id, entry, revision=decision.revision)
    except WrongRevisionError:
        if not isinstance(on_refusal(entry, await context.ledger.read(context.agent, task.id)), Won):
            return False
    await _publish_result(context.bus, base.inbox, result)
    await delivery.ack()
    log.info("task %s: %s without being run", task.id, outcome.status)
    return True


def cancelled_outcome(entry: Entry, text: str = "") -> Outcome:
    """The outcome of a task that was cancelled: who asked, and why."""
    wish = entry.cancel
    who = f"cancelled by {wish.by}" if wish else "cancelled"
    why = f": {wish.reason}" if wish and wish.reason else ""
    return Outcome("cancelled", text, who + why)


async def _publish_result(bus: Bus, inbox: str, result: dict[str, Json]) -> None:
    """Put a committed result into its inbox; its id makes that happen once, however often it is tried."""
    await bus.store(subjects.results(inbox), encode(result), msg_id=str(result["id"]))


class Job:
    """A claimed task: run it, then settle it."""

    def __init__(self, context: Context, delivery: Delivery, task: Task, lease: Lease) -> None:
        self._context = context
        self._delivery = delivery
        self._lease = lease
        self.task = task

    def renew_now(self) -> None:
        """Renew the lease at once, because the connection is new."""
        self._lease.renew_now()

    async def run(self, stop: asyncio.Event) -> Outcome | None:
        """Run the command while the lease is kept. None if the run was stopped, or the lease lost: nothing to settle.

        `stop` ends the command from outside, for a shutdown.
        """
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            watch = [
                group.create_task(_pass_on(event, ended)) for event in (stop, self._lease.lost, self._lease.cancelled)
            ]
            try:
                outcome = await self._execute(ended)
            finally:
                for task in watch:
                    task.cancel()
                self._lease.stop_renewing()
        if self._lease.lost.is_set():
            log.warning("task %s: the lease was lost to another worker; the outcome is dropped", self.task.id)
            return None
        if outcome is None and self._lease.cancelled.is_set():
            return cancelled_outcome(self._lease.entry)
        return outcome

    async def _execute(self, stop: asyncio.Event) -> Outcome | None:
        config = self._context.config
        prompt = build_prompt(self.task, agent=self._context.agent, extra_instruction=config.agent.extra_instruction)
        argv = [word.replace(INPUT_PLACEHOLDER, prompt) for word in config.agent.chat_cmd]
        attempt = self._lease.entry.attempt
        log.info("task %s: started (%s, attempt %d)", self.task.id, _plain(self.task.task_type), attempt)
        try:
            ended = await run_command(
                argv,
                env=self._environment(attempt),
                timeout_s=config.worker.task_timeout_seconds,
                grace_s=config.worker.kill_grace_seconds,
                max_output_bytes=config.worker.max_output_bytes,
                stop=stop,
            )
        except CommandError as error:
            return Outcome("failed", "", str(error))
        if ended.reason == "stopped":
            return None
        outcome = of_exit(ended, timeout_s=config.worker.task_timeout_seconds)
        log.info(
            "task %s: command ended after %.1f s with %d bytes of output",
            self.task.id,
            ended.duration_s,
            ended.stdout.size,
        )
        return outcome

    def _environment(self, attempt: int) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTBUS_")}
        return {
            **own,
            "AGENTBUS_AGENT_ID": self._context.agent,
            "AGENTBUS_TASK_ID": self.task.id,
            "AGENTBUS_TASK_TYPE": self.task.task_type.replace("\0", ""),
            "AGENTBUS_ATTEMPT": str(attempt),
        }

    async def settle(self, outcome: Outcome) -> None:
        """Commit, publish, ack - each tried until it works, for as long as the task is ours.

        Raises:
            BusError: the connection has ended for good.
        """
        claim = self._lease.entry.claim
        assert claim is not None, "a job has a claim"
        result = _result(self._context, self.task, outcome, claim.nonce, self._lease.entry.attempt)
        try:
            await self._insist(lambda: self._lease.commit(outcome.status, result))
        except LeaseLostError:
            log.warning("task %s: the lease was lost before the commit; the outcome is dropped", self.task.id)
            return
        await self._insist(lambda: _publish_result(self._context.bus, self._lease.entry.inbox, result))
        with suppress(BusUnavailableError):  # delivered again, the task is found settled and acknowledged then
            await self._delivery.ack()
        log.info("task %s: %s%s", self.task.id, outcome.status, f" ({outcome.reason})" if outcome.reason else "")

    async def release(self) -> None:
        """Give the task back, for another replica to take at once."""
        try:
            await self._lease.release()
            await self._delivery.nak()
            log.info("task %s: given back to the bus", self.task.id)
        except (LeaseLostError, BusError) as error:
            log.warning("task %s: could not be given back (%s); its lease runs out by itself", self.task.id, error)

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Try one step of the settlement until the bus takes it."""
        failures = 0
        while True:
            try:
                return await step()
            except (BusUnavailableError, StreamFullError) as error:
                if failures == 0:
                    log.warning("task %s: the result cannot be stored yet: %s", self.task.id, error)
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                await self._context.bus.wait_connected()
                failures += 1


def _result(context: Context, task: Task, outcome: Outcome, nonce: str, attempt: int) -> dict[str, Json]:
    """The result message: the task as it came, the outcome, and which run of which worker it records."""
    message = new_result(
        task.to_json(),
        result_id=make_result_id(context.agent, task.id, nonce),
        status=outcome.status,
        result=outcome.text,
        error=outcome.error,
        extra={"worker": context.instance, "attempt": attempt, **outcome.extra},
    )
    return fit(message.to_json(), context.bus.max_message_bytes - _LEDGER_SLACK)


async def _pass_on(event: asyncio.Event, to: asyncio.Event) -> None:
    await event.wait()
    to.set()


def _plain(text: str) -> str:
    """Text from outside, on one line of the log: no line breaks, no control characters, bounded."""
    shown = "".join(char if char.isprintable() else " " for char in text[:200])
    return shown if len(text) <= 200 else shown + "…"
