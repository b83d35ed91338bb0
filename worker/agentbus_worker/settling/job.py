"""One claimed task, from the start of its command to the acknowledgement.

The order is what keeps a result from being lost or doubled: run, write the outcome to disk, commit the whole result to
the ledger by compare-and-set, publish it under an id that only this claim could know, and only then ack.
"""

import asyncio
import functools
import os
import random
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agentbus.bus.pull_consumer import Delivery
from agentbus.config.schema import INPUT_FILE_PLACEHOLDER, INPUT_PLACEHOLDER, TASK_ID_PLACEHOLDER, WORKDIR_PLACEHOLDER
from agentbus.errors import (
    ApiError,
    BusError,
    BusUnavailableError,
    PermissionDeniedError,
    SetupMissingError,
    StreamFullError,
    TooLargeError,
)
from agentbus.observability import tracing
from agentbus.protocol.ids import make_result_id
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.messages import ResultStatus, Task, new_result
from agentbus.tasks.output_store import chunk_bytes, put_file
from agentbus.tasks.settle import publish_committed
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.command import Exit, Limits, Output, running
from agentbus_worker.running.process_tree import RUN_VARIABLE, TASK_VARIABLE
from agentbus_worker.running.prompt import build_prompt
from agentbus_worker.running.spawn import Command, CommandError
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.lease import Lease, LeaseLostError
from agentbus_worker.settling.outbox import Copy, Unsent
from agentbus_worker.settling.outcome import Outcome, decode_output, fit, of_exit
from agentbus_worker.settling.slots import Reservation
from agentbus_worker.state_folder import open_private

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_LEDGER_SLACK: Final = 8_192
"""What the ledger entry and the headers need around the result message."""
_LONGEST_CHAR: Final = 6
"""Bytes of a character in JSON, at the most: only what could be too large need be measured."""
_CANCEL_GRACE_S: Final = 1.0
"""The most that a cancelled command gets between SIGTERM and SIGKILL: its tree is gone within two seconds."""
_HALT_PATIENCE_S: Final = 1.0
REFUSED_PAUSE_S: Final = 60.0
"""How long to leave what the bus refuses until somebody mends it: a permission, a stream that is not there."""
_PLACEHOLDER: Final = re.compile(
    "|".join(
        re.escape(name)
        for name in (INPUT_PLACEHOLDER, INPUT_FILE_PLACEHOLDER, TASK_ID_PLACEHOLDER, WORKDIR_PLACEHOLDER)
    )
)


class _HaltedError(Exception):
    """The worker is told to end at once, and the bus does not take what is left to be stored."""


class Job:
    """A claimed task: run it, settle it.

    `taken_from` is the worker that had the task before, and was lost while it ran it.
    """

    def __init__(
        self, context: Context, delivery: Delivery, task: Task, lease: Lease, *, taken_from: str | None = None
    ) -> None:
        self._context = context
        self._delivery = delivery
        self._lease = lease
        self._halted = asyncio.Event()
        self._place: Reservation | None = None
        self._storing: asyncio.Timeout | None = None  # the result, while that is tried
        self._taken_from = taken_from
        self._late = False
        self.task = task
        self._log = TaskLog(
            task.id,
            attempt=lease.entry.attempt,
            redeliveries=delivery.num_delivered - 1 or None,
            task_type=task.task_type,
            **{"from": task.sender},
        )

    @contextmanager
    def traced(self) -> Generator[None]:
        """The span of this attempt, for the length of the block."""
        context, attempt = self._context, self._entry.attempt
        with tracing.processing(
            self._delivery.headers, agent=context.agent, task_id=self.task.id, worker=context.instance, attempt=attempt
        ):
            self._log.add(trace_id=tracing.trace_id())
            if self._taken_from is not None:
                tracing.event("agentbus.takeover", **{"agentbus.from": self._taken_from})
            yield

    def renew_now(self) -> None:
        """Renew the lease at once: the connection is new, or somebody has changed the ledger entry."""
        self._lease.renew_now()

    def stop_now(self) -> None:
        """End the command now, or give up storing the result; the task goes back to the bus, the outcome to disk."""
        if not self._halted.is_set() and self._storing is not None:
            self._hurry(self._storing)
        self._halted.set()
        self._lease.interrupt()

    async def run(self, place: Reservation) -> None:
        """Run the command once there is a slot for it, and settle the task, keeping the lease meanwhile.

        The slot is free as soon as the command has ended: the rest overlaps with the next task. When this returns,
        nothing that the command started is left.

        Raises:
            BusError: the connection has ended for good.
        """
        self._place = place
        try:
            async with self._lease.kept():
                try:
                    with self._command() as (command, limits):
                        if await place.start() and not self._lease.interrupted.done():
                            await self._run_command(command, limits, place)
                        else:
                            await self._do_not_run()
                except CommandError as error:
                    place.ended()
                    await self._settle(Outcome("failed", "", str(error), reason=str(error)))
        except _HaltedError:
            self._log.warning("its outcome stays in the outbox until the worker starts again")
            with suppress(BusError):
                await self._delivery.nak()
        finally:
            if self._lease.lost:
                self._context.metrics.count("lease lost")

    async def _run_command(self, command: Command, limits: Limits, place: Reservation) -> None:
        context = self._context
        async with running(command, limits, context.children, context.slot.tmp) as child:
            context.metrics.run_started()
            ended = await child.ended(
                self._lease.interrupted,
                context.children,
                stop_grace_s=self._stop_grace_s,
                on_lasting=lambda: self._log.info("started"),
            )
            place.ended(ended.duration_s)
            await asyncio.sleep(0)  # whoever gets the slot goes first
            self._log.add(exit_code=ended.code, duration_s=round(ended.duration_s, 3), output_bytes=ended.stdout.size)
            self._log.debug("command ended")
            context.metrics.run_ended(ended.reason, ended.duration_s, ended.stdout.size)
            await self._conclude(ended)

    @property
    def _entry(self) -> Entry:
        return self._lease.entry

    @property
    def _flush(self) -> bool:
        """Whether anybody waits for one result: not while quick commands follow one another."""
        return self._place is None or not self._place.in_a_row

    def _stop_grace_s(self) -> float:
        """A cancelled command, or one whose task another worker has, gets less time than one that is drained."""
        grace_s = self._context.config.worker.kill_grace_seconds
        return grace_s if self._halted.is_set() and not self._lease.lost else min(grace_s, _CANCEL_GRACE_S)

    async def _conclude(self, ended: Exit) -> None:
        """From the end of the command to what becomes of the task."""
        worker = self._context.config.worker
        if self._lease.lost:
            self._drop()
            return
        if ended.reason == "stopped":
            if self._entry.cancel is None:
                await self._release()
                return
            outcome = cancelled_outcome(self._entry, decode_output(ended.stdout.head))
        else:
            outcome = of_exit(ended, timeout_s=worker.task_timeout_seconds, idle_timeout_s=worker.idle_timeout_seconds)
            again = outcome.cause in worker.retry_on and self._entry.attempt < worker.max_attempts
            if again and self._entry.cancel is None and await self._try_again_later(outcome):
                return
        await self._settle(await self._with_file(outcome, ended.stdout))

    async def _do_not_run(self) -> None:
        """There is no slot soon, or what was claimed ahead is not to be run any more."""
        if self._lease.lost:
            self._drop()
        elif self._entry.cancel is not None:
            await self._settle(cancelled_outcome(self._entry))
        else:
            await self._release()

    # -- the ways out -------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        tracing.outcome("lost", error="lease_lost")
        self._log.warning("the lease was lost to another worker; the outcome is dropped")

    async def _settle(self, outcome: Outcome) -> None:
        """Outbox, commit, publish, ack - each tried until it works, for as long as the task is ours.

        Raises:
            _HaltedError: the worker is to end before the bus has taken it; it is on disk.
        """
        context, claim = self._context, self._entry.claim
        assert claim is not None, "a job has a claim"
        inbox, revision = self._entry.inbox, self._lease.revision
        result = result_message(context, self._delivery, self.task, outcome, claim.nonce, self._entry.attempt)

        def unsent() -> Unsent:
            return Unsent(
                agent=context.agent,
                task_id=self.task.id,
                nonce=claim.nonce,
                status=outcome.status,
                inbox=inbox,
                result=result,
                written_at=time.time(),
                revision=revision,
                trace=tracing.headers(),
            )

        failed = (outcome.cause or "not_started") if outcome.status == "failed" else None
        tracing.outcome(outcome.status, error=failed, reason=outcome.reason, exit_code=outcome.extra.get("exit_code"))
        self._lease.stop_renewing()
        async with Copy(context.outbox, unsent) as copy:
            try:
                await self._store(outcome.status, result)
            except LeaseLostError:
                tracing.outcome("lost", error="lease_lost")
                self._log.warning("the lease was lost before the commit; the outcome is dropped")
            except (PermissionDeniedError, SetupMissingError, TooLargeError, ApiError) as error:
                # Other tasks must not suffer for it. What is in the ledger is published with every delivery of it.
                self._log.error("the bus refuses its result: %s", error)
                context.metrics.count("result refused")
                with suppress(BusUnavailableError):
                    await self._delivery.nak(REFUSED_PAUSE_S)
                if not self._entry.terminal:
                    copy.keep()
            else:
                with suppress(BusUnavailableError):  # delivered again, the task is found settled and acknowledged then
                    await self._delivery.ack()
                self._log.info("settled", status=outcome.status, reason=outcome.reason)
                context.metrics.settled(outcome.status)
                if self._late:
                    context.metrics.count("stored late")

    async def _store(self, status: ResultStatus, result: dict[str, Json]) -> None:
        """Commit and publish. Once the worker is to end at once, this gets a moment to finish, and is given up then."""
        try:
            async with asyncio.timeout(None) as self._storing:
                if self._halted.is_set():
                    self._hurry(self._storing)
                bus, lease = self._context.bus, self._lease
                await self._insist(lambda: lease.commit(status, result, flush=self._flush))
                await self._insist(lambda: publish_committed(bus, lease.entry, flush=self._flush))
        except TimeoutError:
            raise _HaltedError from None
        finally:
            self._storing = None

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Try one step of the settlement until the bus takes it."""
        failures = 0
        while True:
            try:
                return await step()
            except (BusUnavailableError, StreamFullError) as error:
                if self._context.bus.ended:
                    raise
                if failures == 0:
                    self._log.warning("the result cannot be stored yet: %s", error)
                    self._late = True
                pause_s = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                await asyncio.sleep(pause_s)
                failures += 1

    @staticmethod
    def _hurry(storing: asyncio.Timeout) -> None:
        storing.reschedule(asyncio.get_running_loop().time() + _HALT_PATIENCE_S)

    async def _try_again_later(self, outcome: Outcome) -> bool:
        """Queue the task for another attempt, after a pause that doubles; False if it must be settled after all."""
        base_s = self._context.config.worker.retry_backoff_seconds
        pause_s = base_s * 2 ** (self._entry.attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311  # jitter
        pause_s = min(pause_s, 3600.0)
        self._lease.stop_renewing()
        try:
            await self._lease.release(retry_after_s=pause_s, failure=outcome.reason)
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

    async def _release(self) -> None:
        """Give the task back, for another replica to take at once."""
        self._lease.stop_renewing()
        try:
            await self._lease.release()
            await self._delivery.nak()
            tracing.outcome("given_back")
            self._log.info("given back to the bus")
            self._context.metrics.count("given back")
        except (LeaseLostError, BusError) as error:
            self._log.warning("could not be given back (%s); its lease runs out by itself", error)

    async def _with_file(self, outcome: Outcome, stdout: Output) -> Outcome:
        """Store output that is too large for the result, and point to it; without a place for it, say so."""
        claim, context = self._entry.claim, self._context
        if stdout.spilled is None or claim is None:
            if stdout.truncated:
                self._log.warning("its output is kept only in part: %s", self._why_no_file(stdout))
            return outcome
        name = make_result_id(context.agent, self.task.id, claim.nonce)
        note = dict(outcome.extra.get("output") or {})
        try:
            stored = await put_file(context.bus, context.agent, name, _pieces(stdout.spilled, chunk_bytes(context.bus)))
            note["file"] = {"bucket": stored.bucket, "name": stored.name}
        except (BusError, OSError) as error:
            self._log.warning("its output is kept only in part: %s", error)
        return Outcome(
            outcome.status,
            outcome.text,
            outcome.error,
            {**outcome.extra, "output": note},
            outcome.reason,
            outcome.cause,
        )

    def _why_no_file(self, stdout: Output) -> str:
        limit = self._context.config.worker.max_output_bytes
        if stdout.size > limit:
            return f"{stdout.size} bytes of output are more than max_output_bytes ({limit})"
        return f"it could not be written to {self._context.slot.tmp}"

    # -- the command --------------------------------------------------------------------------------------------

    @contextmanager
    def _command(self) -> Generator[tuple[Command, Limits]]:
        """What to run and how long; its files are there for the length of the block.

        Raises:
            CommandError: its folder or its files cannot be made.
        """
        config, worker = self._context.config.agent, self._context.config.worker
        run_id = self._context.children.new_run_id()
        prompt = build_prompt(self.task, agent=self._context.agent, extra_instruction=config.extra_instruction)
        with _workdir(worker.workdir, self.task.id, keep=worker.keep_workdir) as workdir:
            file = self._context.slot.tmp / f"{run_id}.prompt" if config.prompt_via == "file" else None
            try:
                if file is not None:
                    _write_prompt(file, prompt)
                values = {
                    INPUT_PLACEHOLDER: lambda: prompt,
                    INPUT_FILE_PLACEHOLDER: lambda: str(file),
                    TASK_ID_PLACEHOLDER: lambda: self.task.id,
                    WORKDIR_PLACEHOLDER: lambda: str(workdir or Path.cwd()),
                }
                # In one pass: what the prompt says must not be replaced in its turn.
                argv = [_PLACEHOLDER.sub(lambda found: values[found[0]](), word) for word in config.chat_cmd]
                yield (
                    Command(
                        argv=argv,
                        env=self._environment(run_id, workdir),
                        run_id=run_id,
                        task_id=self.task.id,
                        cwd=workdir,
                        stdin=prompt.encode() if config.prompt_via == "stdin" else None,
                    ),
                    Limits(
                        timeout_s=worker.task_timeout_seconds,
                        grace_s=worker.kill_grace_seconds,
                        keep_bytes=worker.inline_output_bytes,
                        spill_bytes=worker.max_output_bytes,
                        idle_timeout_s=worker.idle_timeout_seconds or None,
                    ),
                )
            finally:
                if file is not None:
                    with suppress(OSError):
                        file.unlink(missing_ok=True)

    def _environment(self, run_id: str, workdir: Path | None) -> dict[str, str]:
        return {
            **own_environment(),
            **tracing.environment(),
            RUN_VARIABLE: run_id,
            "AGENTBUS_AGENT_ID": self._context.agent,
            TASK_VARIABLE: self.task.id,
            "AGENTBUS_TASK_TYPE": self.task.task_type.replace("\0", ""),
            "AGENTBUS_ATTEMPT": str(self._entry.attempt),
            **({"AGENTBUS_WORKDIR": str(workdir)} if workdir else {}),
        }


@functools.cache
def own_environment() -> dict[str, str]:
    """The worker's environment without its own settings and its own trace, as every command gets it; read once."""
    own = tracing.ENVIRONMENT
    return {name: value for name, value in os.environ.items() if not name.startswith("AGENTBUS_") and name not in own}


@contextmanager
def _workdir(base: Path | None, task_id: str, *, keep: bool) -> Generator[Path | None]:
    """A folder of the task's own, if one is configured; a later attempt finds what an earlier one left there."""
    if base is None:
        yield None
        return
    folder = base.absolute() / task_id  # the command runs in it, and must find it by this name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"the working folder {folder} cannot be made: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _write_prompt(file: Path, prompt: str) -> None:
    try:
        with open_private(file) as out:
            out.write(prompt.encode())
    except OSError as error:
        raise CommandError(f"the prompt cannot be written to {file}: {error.strerror or error}") from None


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(size):
            yield piece


def cancelled_outcome(entry: Entry, text: str = "") -> Outcome:
    """The outcome of a task that was cancelled: who asked, and why."""
    wish = entry.cancel
    who = f"cancelled by {wish.by}" if wish else "cancelled"
    why = f": {wish.reason}" if wish and wish.reason else ""
    return Outcome("cancelled", text, who + why)


def result_message(
    context: Context, delivery: Delivery, task: Task, outcome: Outcome, nonce: str, attempt: int
) -> dict[str, Json]:
    """The result message: the task as it came, the outcome, and which run of which worker it records."""
    message = new_result(
        task.to_json(),
        result_id=make_result_id(context.agent, task.id, nonce),
        status=outcome.status,
        result=outcome.text,
        error=outcome.error,
        extra={"worker": context.instance, "attempt": attempt, **outcome.extra},
    )
    room = context.bus.max_message_bytes - _LEDGER_SLACK
    chars = len(delivery.data) + len(outcome.text) + len(outcome.error or "")
    return message if _LONGEST_CHAR * chars < room - _LEDGER_SLACK else fit(message, room)
