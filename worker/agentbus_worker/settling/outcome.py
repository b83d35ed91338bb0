"""Maps the exit of a command to the outcome of its task."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from agentbus.protocol import approval
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import CancelRequest, Entry
from agentbus.protocol.messages import Failure, ResultStatus
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus_worker.running.command import Exit
from agentbus_worker.running.frames import folded
from agentbus_worker.running.output import Output
from agentbus_worker.running.unended import Unended

NOT_STARTED: Final[FailureCode] = "not_started"
"""The code of a command that could not be started."""
_STDERR_SHOWN: Final = 500
"""How many characters of standard error a failure quotes, from its end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status, the text and, for a failure, the error; `extra` has further fields of the result.

    `reason` is the error for the log. `error` may quote the agent, which may have printed a secret. `failure` says why
    as a code, where there is one for it.
    """

    status: ResultStatus
    text: str
    error: str | None = None
    extra: dict[str, Json] = field(default_factory=dict[str, Json])
    reason: str | None = None
    cause: str = ""
    failure: Failure | None = None


def outcome_of_exit(
    ended: Exit, *, timeout_s: float, idle_timeout_s: float = 0, cancel: CancelRequest | None = None
) -> Outcome:
    """Map the exit of a command to success, failure, or a request for approval.

    `cause` is a failure as the configuration key `retry_on` names it: timeout, idle, exit:CODE. A killed
    supervisor is no such failure: the command would kill it again. Nor is a command that could not be ended, whatever
    it was to be ended for: it must not run twice at once.

    Args:
        cancel: the request to cancel the task, if there is one: a command that was stopped for it and could not be
            ended has failed.
    """
    text = decode_output(ended.stdout.head)
    extra: dict[str, Json] = {"exit_code": ended.code, "duration_seconds": round(ended.duration_s, 3)}
    if ended.stdout.truncated:
        extra["output"] = output_note(ended.stdout)
    why = {"timeout": f"timed out after {timeout_s:g} s", "idle": f"printed nothing for {idle_timeout_s:g} s"}
    if ended.code is None:
        stopped = _why_cancelled(cancel) if cancel else "the worker was stopped"
        return _unended_outcome(ended, text, why.get(ended.reason, stopped), extra)
    if ended.reason in why:
        reason = f"{why[ended.reason]} and was ended"
        return Outcome("failed", text, reason, extra, reason, ended.reason)
    if ended.reason == "unsupervised":
        reason = "the process that supervised the command was killed, and the command was ended"
        return Outcome("failed", text, reason + _stderr_end(ended.stderr), extra, reason, "unsupervised")
    if ended.code != 0:
        how = f"exited with status {ended.code}" if ended.code > 0 else f"was ended by signal {-ended.code}"
        reason = f"the command {how}"
        return Outcome("failed", text, reason + _stderr_end(ended.stderr), extra, reason, f"exit:{ended.code}")
    asks = any(approval.is_asked_in(shown) for shown in _shown(ended.stdout))
    if ended.stdout.truncated:  # in the tail only a whole line counts, and its first line may be incomplete
        asks = asks or approval.position_in(decode_output(ended.stdout.tail).partition("\n")[2]) is not None
    return Outcome("needs_approval" if asks else "completed", text, None, extra)


def _unended_outcome(ended: Exit, text: str, why: str, extra: dict[str, Json]) -> Outcome:
    """Return the outcome of a command that was to be ended, and could not be."""
    failure = not_ended(ended.unended)
    reason = f"{why}, and {failure.message}"
    known = {name: value for name, value in extra.items() if value is not None}
    return Outcome("failed", text, reason, known, reason, failure.code, failure)


def not_started_outcome(reason: str) -> Outcome:
    """Return the outcome of a task whose command could not be started."""
    return Outcome("failed", "", reason, reason=reason, cause=NOT_STARTED, failure=Failure(NOT_STARTED, reason))


def decode_output(data: bytes) -> str:
    """Decode output; invalid UTF-8 becomes U+FFFD."""
    return data.decode("utf-8", errors="replace")


def _shown(stdout: Output) -> Iterator[str]:
    """Yield what a coordinator may get to see of an output."""
    yield decode_output(stdout.head)
    if stdout.folded is not None:
        yield decode_output(stdout.folded)


def not_ended(unended: Unended | None) -> Failure:
    """Return the failure of a command that could not be ended."""
    return Failure("not_ended", f"the command could not be ended: it {unended.why if unended else 'still runs'}")


def outlived_outcome(left: Unended) -> Outcome:
    """Return the outcome of a task whose worker was lost, and whose command was not: it must not run twice at once."""
    failure = not_ended(left)
    reason = f"the worker was lost while it ran the task, and {failure.message}"
    return Outcome("failed", "", reason, reason=reason, cause=failure.code, failure=failure)


def cancelled_outcome(entry: Entry, text: str = "") -> Outcome:
    """Return the outcome of a cancelled task, which names the requester and the reason."""
    return Outcome("cancelled", text, _why_cancelled(entry.cancel))


def _why_cancelled(request: CancelRequest | None) -> str:
    who = f"cancelled by {request.by}" if request else "cancelled"
    return f"{who}: {request.reason}" if request and request.reason else who


def output_note(output: Output) -> dict[str, Json]:
    """Describe an output of which the result has a part: its size, its digest, and how much of it is kept."""
    return {"truncated": True, "bytes": output.size, "kept": len(output.head), "sha256": output.sha256}


def _stderr_end(stderr: Output) -> str:
    text = decode_output(folded(stderr.tail)).strip()
    if not text:
        return ""
    return f": …{text[-_STDERR_SHOWN:]}" if len(text) > _STDERR_SHOWN else f": {text}"
