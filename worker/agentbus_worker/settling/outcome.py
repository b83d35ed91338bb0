"""Maps the exit of a command to the outcome of its task."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

from agentbus.config.worker_schema import WorkerSection
from agentbus.errors import CommandError, WorkspaceError
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import CancelRequest, Entry
from agentbus.protocol.messages import MAX_FAILURE_CHARS, Failure, ResultStatus
from agentbus.protocol.outcomes.failure_codes import LONG_RETRY_S, FailureCode
from agentbus.protocol.outcomes.run_report import FALLBACK, Run
from agentbus.protocol.questions.asked_call import QUESTION
from agentbus_worker.formats.judgement import Ended, Judgement
from agentbus_worker.formats.text import text_outcome
from agentbus_worker.running.command import Exit
from agentbus_worker.running.frames import folded
from agentbus_worker.running.output import Output
from agentbus_worker.running.unended import Unended

NOT_STARTED: Final[FailureCode] = "not_started"
"""The code of a command that could not be started."""
LOST: Final = "lost"
"""The cause, as `retry_on` names it, of a task whose worker cannot tell what came of its command."""
OUT_OF_MEMORY: Final = "the worker has not enough memory for this task"
_UNSUPERVISED: Final = "unsupervised"
_MAX_ERROR_CHARS: Final = 1_000
"""How much of an error of an agent a result holds: the longest that is known has 700 characters."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status, the text and, for a failure, the error; `extra` has further fields of the result.

    `reason` is the error for the log. `error` may quote the agent, which may have printed a secret. `failure` says why
    as a code, where there is one for it. `transcript` says that standard output is not the result but the events of
    the agent.
    """

    status: ResultStatus
    text: str
    error: str | None = None
    extra: dict[str, Json] = field(default_factory=dict[str, Json])
    reason: str | None = None
    cause: str = ""
    failure: Failure | None = None
    transcript: bool = False

    @property
    def retry_after_s(self) -> float:
        """After how many seconds another attempt can succeed at the earliest, as far as that is known."""
        return (self.failure.retry_after_s if self.failure else None) or 0

    def is_named_in(self, retry_on: Collection[str]) -> bool:
        """Whether the configuration wants another attempt after this failure: by its cause, or by its code.

        Never that of a command whose supervisor was killed: the command would kill it again.
        """
        if self.cause == _UNSUPERVISED or self.status != "failed":
            return False
        return self.cause in retry_on or (self.failure is not None and self.failure.code in retry_on)


def limits_of(worker: WorkerSection) -> dict[str, float]:
    """Return the limits of a configuration by which `outcome_of_exit` judges."""
    return {
        "timeout_s": worker.task_timeout_seconds,
        "idle_timeout_s": worker.idle_timeout_seconds,
        "longest_wait_s": worker.max_retry_after_seconds,
    }


def outcome_of_exit(
    ended: Exit,
    *,
    timeout_s: float,
    idle_timeout_s: float = 0,
    longest_wait_s: float = LONG_RETRY_S,
    cancel: CancelRequest | None = None,
) -> Outcome:
    """Map the exit of a command to success, failure, or a request for approval.

    `cause` is a failure as the configuration key `retry_on` names it: timeout, idle, stalled, exit:CODE. A killed
    supervisor is no such failure: the command would kill it again. Nor is a command that could not be ended, whatever
    it was to be ended for: it must not run twice at once.

    Args:
        longest_wait_s: `max_retry_after_seconds`.
        cancel: the request to cancel the task, if there is one: a command that was stopped for it and could not be
            ended has failed.
    """
    why = {"timeout": f"timed out after {timeout_s:g} s", "idle": f"printed nothing for {idle_timeout_s:g} s"}
    if ended.given_up is not None:
        why[ended.reason] = ended.given_up.how
    if ended.code is None:
        stopped = _why_cancelled(cancel) if cancel else "the worker was stopped"
        text, extra = decode_output(ended.stdout.head), _extra(ended)
        if ended.stdout.truncated:
            extra["output"] = output_note(ended.stdout)
        return _unended_outcome(ended, text, why.get(ended.reason, stopped), extra)
    how = f"{why[ended.reason]} and was ended" if ended.reason in why else _how(ended.reason, ended.code)
    judged, extra, transcript = _judged(ended, how, longest_wait_s)
    if judged.failure is None:
        if judged.question is not None:
            extra[QUESTION] = judged.question.to_json()
        return Outcome(judged.status, judged.text, None, extra, transcript=transcript)
    return _failed(ended, judged.failure, Outcome("failed", judged.text, extra=extra, transcript=transcript), how)


def _failed(ended: Exit, failure: Failure, outcome: Outcome, how: str) -> Outcome:
    """Return an outcome with what the failure of its command means for it."""
    error = _bounded(failure.message)
    cause = f"exit:{ended.code}" if ended.reason == "exited" and ended.code else ended.reason
    if ended.given_up is not None or cause == "exited":
        cause = failure.code
    reason = how if ended.code or ended.reason != "exited" else f"the agent failed: {failure.code}"
    message = error if len(error) <= MAX_FAILURE_CHARS else f"…{error[1 - MAX_FAILURE_CHARS :]}"
    return replace(outcome, error=error, reason=reason, cause=cause, failure=failure._replace(message=message))


def _judged(ended: Exit, how: str, longest_wait_s: float = LONG_RETRY_S) -> tuple[Judgement, dict[str, Json], bool]:
    """Judge a run; returns what further fields of the result say of it, and whether it was read as events."""
    stdout, extra = ended.stdout, _extra(ended)
    printed = stdout.folded if stdout.folded is not None and not stdout.truncated else stdout.head
    tail = decode_output(stdout.tail) if stdout.truncated else ""
    stderr = decode_output(folded(ended.stderr.tail))
    end = Ended(ended.reason, ended.code, how, decode_output(printed), tail, stderr, ended.given_up, longest_wait_s)
    judged = ended.events.outcome(end) if ended.events else text_outcome(end, Run("text"))
    transcript = ended.events is not None and judged.run.format != FALLBACK
    if ended.events is not None:
        extra["run"] = judged.run.to_json()
    if stdout.truncated and not transcript:
        extra["output"] = output_note(stdout)
    return judged, extra, transcript


def _extra(ended: Exit) -> dict[str, Json]:
    return {"exit_code": ended.code, "duration_seconds": round(ended.duration_s, 3)}


def _how(reason: str, code: int) -> str:
    if reason == _UNSUPERVISED:
        return "the process that supervised the command was killed, and the command was ended"
    return f"the command exited with status {code}" if code >= 0 else f"the command was ended by signal {-code}"


def _bounded(text: str) -> str:
    return text if len(text) <= _MAX_ERROR_CHARS else text[:_MAX_ERROR_CHARS] + "…"


def _unended_outcome(ended: Exit, text: str, why: str, extra: dict[str, Json]) -> Outcome:
    """Return the outcome of a command that was to be ended, and could not be."""
    failure = not_ended(ended.unended)
    reason = f"{why}, and {failure.message}"
    known = {name: value for name, value in extra.items() if value is not None}
    return Outcome("failed", text, reason, known, reason, failure.code, failure)


def not_started_outcome(why: CommandError | str) -> Outcome:
    """Return the outcome of a task whose command could not be started, or that could not be made ready."""
    reason = str(why)
    code: FailureCode = "workspace" if isinstance(why, WorkspaceError) else NOT_STARTED
    return Outcome("failed", "", reason, reason=reason, cause=code, failure=Failure(code, reason[:MAX_FAILURE_CHARS]))


def decode_output(data: bytes) -> str:
    """Decode output; invalid UTF-8 becomes U+FFFD."""
    return data.decode("utf-8", errors="replace")


def not_ended(unended: Unended | None) -> Failure:
    """Return the failure of a command that could not be ended."""
    return Failure("not_ended", f"the command could not be ended: it {unended.why if unended else 'still runs'}")


def outlived_outcome(left: Unended) -> Outcome:
    """Return the outcome of a task whose worker was lost, and whose command was not: it must not run twice at once."""
    failure = not_ended(left)
    reason = f"the worker was lost while it ran the task, and {failure.message}"
    return Outcome("failed", "", reason, reason=reason, cause=failure.code, failure=failure)


def lost_outcome(reason: str) -> Outcome:
    """Return the outcome of a task whose command was started, and whose worker cannot tell what came of it."""
    return Outcome("failed", "", reason, reason=reason, cause=LOST, failure=Failure("lost", reason))


def cancelled_outcome(entry: Entry, ended: Exit | None = None) -> Outcome:
    """Return the outcome of a cancelled task: who cancelled it, why, and what its command said last if it had begun."""
    why = _why_cancelled(entry.cancel)
    if ended is None:
        return Outcome("cancelled", "", why)
    judged, extra, transcript = _judged(ended, "")
    waited_for = judged.failure.message if transcript and judged.failure and judged.failure.code != "empty" else ""
    error = f"{why}; the agent said last: {_bounded(waited_for)}" if waited_for else why
    return Outcome("cancelled", judged.text, error, extra, why, transcript=transcript)


def _why_cancelled(request: CancelRequest | None) -> str:
    who = f"cancelled by {request.by}" if request else "cancelled"
    return f"{who}: {request.reason}" if request and request.reason else who


def output_note(output: Output) -> dict[str, Json]:
    """Describe an output of which the result has a part: its size, its digest, and how much of it is kept."""
    return {"truncated": True, "bytes": output.size, "kept": len(output.head), "sha256": output.sha256}
