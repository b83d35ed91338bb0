"""Tells the failures that no task of this worker would escape: those of its machine, or of the account of its agent.

A task that met one before its agent did anything goes back to the queue, unrun and uncounted.
"""

from dataclasses import dataclass
from typing import Final, cast

from agentbus.bus.pull_consumer import Delivery
from agentbus.observability import tracing
from agentbus.protocol.outcomes.failure_codes import FAILURE_CODES, FailureCode, pauses_worker
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.formats.events import Event, Text, Tool, ToolEnd
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.pausing.pause import Cause, Trial
from agentbus_worker.running.command import Child, Exit
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.lease import Lease
from agentbus_worker.settling.outcome import NOT_STARTED, Outcome
from agentbus_worker.settling.storing import Storing

_ANSWERED: Final = frozenset({"context", "refused", "truncated", "denied", "turn_limit", "budget"})
"""Failures of which the model's server, or the agent by itself, has told: the account is well."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why no task can be done here now.

    Attributes:
        code: that of the failure.
        reason: in words, without those of the agent, which may have printed a secret.
        retry_after_s: when the model's server answers again, if it said so.
    """

    code: str
    reason: str
    cause: Cause
    retry_after_s: float | None = None


def not_started(reason: str) -> Fault:
    """Return the fault of a machine that could not start the command."""
    return Fault(NOT_STARTED, reason, "machine")


def fault_of(outcome: Outcome, *, longest_wait_s: float) -> Fault | None:
    """Return the fault of the account that a run has met; None for any other end.

    Args:
        longest_wait_s: `max_retry_after_seconds`.
    """
    failure = outcome.failure
    if failure is None or not pauses_worker(failure.code, failure.retry_after_s, longest_wait_s=longest_wait_s):
        return None
    meaning = FAILURE_CODES[cast("FailureCode", failure.code)].meaning
    until = f"; it named {failure.retry_after_s:.0f} s" if failure.retry_after_s else ""
    return Fault(failure.code, f"{meaning}{until}", "account", failure.retry_after_s)


def begin_pause(context: Context, fault: Fault) -> None:
    """Take no tasks for a while; see `Pause.begin`."""
    context.pause.begin(fault.code, fault.reason, cause=fault.cause, after_s=fault.retry_after_s)


def watch_trial(context: Context, child: Child) -> Trial:
    """Note that a command has started, and from its events on that its agent works."""
    trial = context.pause.started()

    def on_event(event: Event) -> None:
        if isinstance(event, Text | Tool | ToolEnd):
            trial.worked()

    if child.events is not None:
        child.events.listen(on_event)
    return trial


def note_end(context: Context, trial: Trial | None, outcome: Outcome, ended: Exit) -> Fault | None:
    """Pause the worker if a run has met a fault of the account; else note what the run proves.

    Returns the fault if the agent has done nothing of the task: it is to be handed back. Nothing tells that of a
    command whose output is text, nor of one that said something, or used a tool.
    """
    fault = fault_of(outcome, longest_wait_s=context.config.worker.max_retry_after_seconds)
    if fault is not None:
        begin_pause(context, fault)
    elif trial is not None and (outcome.status != "failed" or (outcome.failure and outcome.failure.code in _ANSWERED)):
        trial.worked()
    if ended.events is None or ended.events.productive or not outcome.transcript:
        return None
    return fault


async def handed_back(
    context: Context, delivery: Delivery, lease: Lease, storing: Storing, key: TaskKey, fault: Fault, log: TaskLog
) -> bool:
    """Hand a task back, unrun and uncounted; returns False if it is to be settled: it is its own fault, or too late.

    Raises:
        LeaseLostError: another worker has the task.
        StoppingError, BusError: not handed back, or not known to be.
    """
    earlier = lease.entry.setbacks
    async with storing.bounded():
        setbacks = await context.setbacks_after(key, earlier, fault.code, fault.cause)
        if setbacks is None:
            return False
        await storing.until_stored(lambda: lease.release(setbacks))
        # Another worker may have it at once. When none took it, another task is tried first here.
        was_here = earlier is not None and context.state_folder.place in earlier.count
        await delivery.nak(context.pause.apart_s if was_here else 0.0)
    tracing.outcome("set_back", error=fault.code, reason=fault.reason)
    log.warning("handed back unrun", reason=fault.reason)
    context.metrics.count("setback")
    return True
