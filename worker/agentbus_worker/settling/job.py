"""Runs one claimed task, from the start of its command to the acknowledgement.

The order of the steps keeps a result from being lost or doubled: run, write the outcome to disk, commit the whole
result to the ledger by compare-and-set, publish it under an id that contains the nonce of the claim, then ack.
"""

import asyncio
import functools
import random
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import BusError, BusUnavailableError, CommandError, LeaseLostError, MachineFaultError
from agentbus.observability import tracing
from agentbus.protocol.ledger_entry import Claim, Entry
from agentbus.protocol.messages import Result
from agentbus.tasks.incoming import Incoming
from agentbus.tasks.settle import publish_committed
from agentbus_worker.asking.run_questions import telling_and_asking
from agentbus_worker.bringing_home.homecoming import Homecoming
from agentbus_worker.conversations.conversation import Conversation
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.pausing.faults import Fault, begin_pause, handed_back, not_started, note_end, watch_trial
from agentbus_worker.running.command import Child, Exit, running
from agentbus_worker.running.side_files import read_side_file
from agentbus_worker.running.spawn import Command
from agentbus_worker.running.task_command import Attempt, task_command
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.decisions import retry_pause_s
from agentbus_worker.settling.lease import Lease
from agentbus_worker.settling.outbox import OutboxCopy, OutboxEntry
from agentbus_worker.settling.outcome import (
    LOST,
    OUT_OF_MEMORY,
    Outcome,
    cancelled_outcome,
    limits_of,
    lost_outcome,
    not_ended,
    not_started_outcome,
    outcome_of_exit,
    outlived_outcome,
)
from agentbus_worker.settling.result import result_message, with_stored_output
from agentbus_worker.settling.result_size import in_a_size_that_is_taken
from agentbus_worker.settling.slots import Reservation, lose_slot
from agentbus_worker.settling.storing import StoppingError, Storing
from agentbus_worker.usage.ended_runs import count_ended, run_of

if TYPE_CHECKING:
    from agentbus_worker.pausing.pause import Trial

_CANCEL_GRACE_S: Final = 1.0
"""The longest time between SIGTERM and SIGKILL of a cancelled command, so that it ends within two seconds."""


class Job:
    """A claimed task, which is run and settled.

    `taken_from` is the lost worker that held the task before, if this is a takeover.
    """

    def __init__(
        self, context: Context, delivery: Delivery, incoming: Incoming, lease: Lease, *, taken_from: str | None = None
    ) -> None:
        self._context = context
        self._delivery = delivery
        self._lease = lease
        self._stopping = asyncio.Event()
        self._reservation: Reservation | None = None
        self._taken_from = taken_from
        self._trial: Trial | None = None
        self._incoming = incoming
        self.task = task = incoming.task
        self.key = incoming.key
        self.conversation = Conversation(context.config, self.key)
        self._log = TaskLog(
            task.id,
            attempt=lease.entry.attempt,
            redeliveries=delivery.num_delivered - 1 or None,
            task_type=task.task_type,
            **self.key.owner_field,
            **{"from": task.sender},
        )
        self._storing = Storing(context.bus, lease, self._log)
        self._homecoming = Homecoming(context, lease, self._stopping, self._log)

    @contextmanager
    def traced(self) -> Generator[None]:
        """Record the span of this attempt for the length of the block."""
        context, attempt = self._context, self._entry.attempt
        with tracing.processing(
            self._delivery.headers, agent=context.agent, task_id=self.task.id, worker=context.instance, attempt=attempt
        ):
            self._log.add(trace_id=tracing.trace_id())
            if self._taken_from is not None:
                tracing.event("agentbus.takeover", **{"agentbus.from": self._taken_from})
            yield

    def renew_now(self) -> None:
        """Renew the lease at once: after a reconnect, or because a coordinator has changed the ledger entry."""
        self._lease.renew_now()

    def stop_now(self) -> None:
        """End the command now, and release the task; if the result is being stored, stop soon and keep it on disk."""
        self._stopping.set()
        self._storing.stop()
        self._lease.interrupt()

    async def run(self, reservation: Reservation) -> None:
        """Run the command once there is a slot for it, and settle the task, renewing the lease meanwhile.

        The slot is free as soon as the command has ended, so the settlement overlaps with the next task. When this
        returns, no process of the command is left.

        Raises:
            BusError: the connection has ended for good.
        """
        self._reservation = reservation
        try:
            async with self._lease:
                try:
                    await self._run_in_slot(reservation)
                except MachineFaultError as error:
                    reservation.ended()
                    await self._could_not_start(str(error))
                except MemoryError:
                    reservation.ended()
                    await self._out_of_memory()
                except CommandError as error:
                    reservation.ended()
                    await self._settle(not_started_outcome(error))
        except StoppingError:
            self._log.warning("its outcome stays in the outbox until the worker starts again")
            with suppress(BusError):
                await self._delivery.nak()
        finally:
            self.conversation.close()
            if self._lease.lost:
                self._context.metrics.count("lease lost")
        self._lease.record.remove()

    async def _run_in_slot(self, reservation: Reservation) -> None:
        context, incoming = self._context, self._incoming
        left = context.children.left_of(self.task.id, self.key.owner) if self._taken_from is not None else None
        if (why := outlived_outcome(left) if left is not None else await self.conversation.refused()) is not None:
            await self._settle(why)
            return
        async with task_command(
            context.config,
            self.task,
            Attempt(self.key.owner, self._entry.attempt, context.children.new_run_id(), incoming.work, incoming.files),
            conversation=self.conversation,
            places=context.places,
            disk=context.disk,
            stop=self._lease.interrupted,
        ) as command:
            if await reservation.acquire() and not self._lease.interrupted.done():
                await self._run_command(command, reservation)
            else:
                await self._finish_without_run()

    async def _run_command(self, command: Command, reservation: Reservation) -> None:
        context, stop = self._context, self._lease.interrupted
        limits, tmp = self.conversation.limits(context.limits), context.state_folder.tmp
        await self._homecoming.begin(command)
        await self.conversation.begin(command.run_id)
        async with running(command, limits, context.children, tmp, stop=stop, disk=context.disk.state) as child:
            self._trial = watch_trial(context, child)
            self._lease.run = run_of(child.events)
            context.metrics.run_started()
            asks = telling_and_asking(context, self.key, self._lease, child, command.answers)
            async with asks as telling, self.conversation.followed(child.events, command):
                ended = await child.ended(
                    stop,
                    context.children,
                    stop_grace_s=self._stop_grace_s,
                    on_still_running=lambda: (self._log.info("started"), telling.begin()),
                )
            self._log.add(exit_code=ended.code, duration_s=round(ended.duration_s, 3), output_bytes=ended.stdout.size)
            if ended.unended is None:
                if reservation.ended(ended.duration_s):
                    await asyncio.sleep(0)  # let the next task start first
                self._log.debug("command ended")
            else:
                lose_slot(reservation, child, ended.unended, self._log)
            await read_side_file(command.side_file, ended.events, context.disk.folders, stop)
            count_ended(context.metrics, context.agent, ended)
            await self._finish(ended, child, command)

    @property
    def _entry(self) -> Entry:
        return self._lease.entry

    @property
    def _claim(self) -> Claim:
        claim = self._entry.claim
        assert claim is not None, "a job has a claim"
        return claim

    @property
    def _flush(self) -> bool:
        """Whether to send writes at once. While tasks are prefetched, they are batched instead."""
        return self._reservation is None or not self._reservation.prefetching

    def _stop_grace_s(self) -> float:
        """Return the grace period: shorter if the command is cancelled or the lease is lost than for a drain."""
        grace_s = self._context.config.worker.kill_grace_seconds
        return grace_s if self._stopping.is_set() and not self._lease.lost else min(grace_s, _CANCEL_GRACE_S)

    async def _finish(self, ended: Exit, child: Child, command: Command) -> None:
        """Settle, retry, release or drop the task; one of which anything still runs is never run again."""
        worker = self._context.config.worker
        if self._lease.lost:
            self._drop_outcome()
            return
        if ended.reason == "stopped" and ended.unended is None:
            if self._entry.cancel is None:
                await self._release()
                return
            outcome = await self.conversation.ended(cancelled_outcome(self._entry, ended), ended, command)
        else:
            found = outcome_of_exit(ended, cancel=self._entry.cancel, **limits_of(worker))
            found = await self.conversation.ended(found, ended, command)
            if (outcome := await self._repeated(found, ended, child)) is None:
                return
        stored = with_stored_output(self._context, self.key, self._claim.nonce, outcome, ended.stdout, self._log)
        async with self._homecoming.brought(await stored, command, lambda found: self._kept(found)()) as whole:
            await self._settle(whole)

    async def _repeated(self, outcome: Outcome, ended: Exit, child: Child) -> Outcome | None:
        """Queue the task for another attempt or hand it back, where that is due; returns what is to be settled else."""
        worker = self._context.config.worker
        unrun = note_end(self._context, self._trial, outcome, ended)
        again = outcome.is_named_in(worker.retry_on) and self._entry.attempt < worker.max_attempts
        anew = self.conversation.begins_anew(outcome)
        if not (again or unrun or anew) or self._entry.cancel is not None:
            return outcome
        if (left := await child.cleared()) is not None:
            return replace(outcome, failure=not_ended(left))
        if anew:
            await self._release()
            return None
        return None if await (self._set_back(unrun) if unrun else self._queue_retry(outcome)) else outcome

    async def _finish_without_run(self) -> None:
        """Settle, release or drop a task that gets no slot in time, or that must not run any more."""
        if self._lease.lost:
            self._drop_outcome()
        elif self._entry.cancel is not None:
            await self._settle(cancelled_outcome(self._entry))
        else:
            await self._release()

    def _drop_outcome(self) -> None:
        tracing.outcome("lost", error="lease_lost")
        self._log.warning("the lease was lost to another worker; the outcome is dropped")

    def _kept(self, outcome: Outcome) -> functools.partial[OutboxEntry]:
        """Return what makes the copy of an outcome on disk, with the result message as it would be stored now."""
        made_of = self._delivery, self._incoming, outcome, self._claim.nonce, self._entry
        copied = self.key, self._claim.nonce, self._entry.inbox, result_message(self._context, *made_of)
        return functools.partial(OutboxEntry.new, *copied, self._lease.revision)

    async def _settle(self, outcome: Outcome) -> None:
        """Write to the outbox, commit, publish and ack; each step is repeated until it succeeds or the lease is lost.

        Raises:
            StoppingError: the worker must end before the bus has stored the result; the outcome is on disk.
        """
        context = self._context
        entry = self._kept(outcome)
        result: Result = entry.args[3]
        failed = (outcome.cause or "not_started") if outcome.status == "failed" else None
        tracing.outcome(outcome.status, error=failed, reason=outcome.reason, exit_code=outcome.extra.get("exit_code"))
        self._lease.stop_renewing()
        async with OutboxCopy(context.outbox, entry, later=not self._flush) as copy:
            try:
                await self._store(result)
            except LeaseLostError:
                tracing.outcome("lost", error="lease_lost")
                self._log.warning("the lease was lost before the commit; the outcome is dropped")
            except BusError as error:
                if context.bus.closed:
                    raise
                # The outcome is kept and tried again beside the tasks that follow, which must not wait for it.
                self._log.error("the bus refuses its result: %s", error)
                copy.keep()
                base = self._lease.base_of_lost_ledger
                context.unsettled.refused(self.key, self._claim.nonce, error, self._delivery, base=base)
                with suppress(BusUnavailableError):
                    await self._delivery.nak(context.unsettled.hold_s)
            else:
                await self._acknowledge(outcome)

    async def _acknowledge(self, outcome: Outcome) -> None:
        with suppress(BusUnavailableError):  # the next delivery finds the task settled, and acknowledges it
            await self._delivery.ack()
        self._log.info("settled", status=outcome.status, reason=outcome.reason)
        self._context.metrics.settled(outcome.status)
        if self._storing.delayed:
            self._context.metrics.count("stored late")

    async def _store(self, result: Result) -> None:
        """Commit and publish the result, for a bounded time if the worker must end at once."""
        bus, lease, storing = self._context.bus, self._lease, self._storing
        async with storing.bounded():
            await in_a_size_that_is_taken(
                result, lambda one: storing.until_stored(lambda: lease.commit(one, flush=self._flush))
            )
            await storing.until_stored(lambda: publish_committed(bus, lease.entry, flush=self._flush))

    async def _queue_retry(self, outcome: Outcome) -> bool:
        """Queue the task for a retry, with backoff; returns False if that fails and the task must be settled."""
        base_s, jitter = self._context.config.worker.retry_backoff_seconds, random.uniform(0.5, 1.5)  # noqa: S311
        pause_s = retry_pause_s(self._entry.attempt, base_s=base_s, jitter=jitter, after_s=outcome.retry_after_s)
        pause_s = 0.0 if outcome.cause == LOST else pause_s  # what it lacks is no fault of the task
        self._lease.stop_renewing()
        try:
            await self._lease.queue_retry(retry_after_s=pause_s, failure=outcome.reason)
            await self._delivery.nak(pause_s)
        except LeaseLostError:
            return True
        except BusError as error:
            self._log.warning("could not be queued for another attempt: %s", error)
            return False
        tracing.outcome("retried", error=outcome.cause, reason=outcome.reason, exit_code=outcome.extra.get("exit_code"))
        self._log.info("trying again in %.1f s", pause_s, reason=outcome.reason)
        self._context.metrics.count("retry")
        return True

    async def _could_not_start(self, reason: str) -> None:
        """Pause the worker, and hand the task back that its machine could not start."""
        if self._lease.interrupted.done():
            await self._finish_without_run()
            return
        fault = not_started(reason)
        begin_pause(self._context, fault)
        if not await self._set_back(fault):
            await self._settle(not_started_outcome(reason))

    async def _set_back(self, fault: Fault) -> bool:
        """Hand the task back, unrun and uncounted; returns False if it is to be settled, see `handed_back`."""
        context = self._context
        self._lease.stop_renewing()
        try:
            return await handed_back(context, self._delivery, self._lease, self._storing, self.key, fault, self._log)
        except LeaseLostError:
            self._drop_outcome()
        except (StoppingError, BusError) as error:
            if context.bus.closed:
                raise
            self._leave_release(f"could not be handed back ({error})")
        return True

    async def _out_of_memory(self) -> None:
        """Hand back what was not started. What was is lost with its output, as if its worker were: that attempt counts.

        Its command has been ended. The worker pauses either way.
        """
        if self._entry.terminal:  # its result is committed; the next delivery makes sure that it is published
            begin_pause(self._context, not_started(OUT_OF_MEMORY))
            return
        if self._trial is None:
            await self._could_not_start(OUT_OF_MEMORY)
            return
        worker = self._context.config.worker
        begin_pause(self._context, not_started(OUT_OF_MEMORY))
        outcome = lost_outcome(OUT_OF_MEMORY)
        if self._lease.lost:
            self._drop_outcome()
        elif (
            self._entry.cancel is not None
            or outcome.cause not in worker.retry_on
            or self._entry.attempt >= worker.max_attempts
            or not await self._queue_retry(outcome)
        ):
            await self._settle(outcome)

    async def _release(self) -> None:
        """Release the task, so that another worker can take it at once."""
        self._lease.stop_renewing()
        try:
            await self._lease.release()
            await self._delivery.nak()
            tracing.outcome("given_back")
            self._log.info("released to the bus")
            self._context.metrics.count("released")
        except LeaseLostError as error:
            self._log.warning("could not be released: %s", error)
        except BusError as error:
            self._leave_release(f"could not be released ({error})")

    def _leave_release(self, why: str) -> None:
        """Leave it to the next worker here to release the task, or to the lease."""
        self._log.warning("%s; its lease expires instead, unless this worker starts again before", why)
        self._lease.record.keep(released=True)
