"""Turn the end of a command into what the result says."""

from dataclasses import dataclass, field
from typing import Final

from agentbus.protocol import approval
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.messages import ResultStatus
from agentbus_worker.running.command import Exit, Output

_STDERR_SHOWN: Final = 500
"""Characters of the standard error that a failure quotes: its last lines as a rule."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Status, text and, where it failed, the reason; `extra` are further fields of the result.

    `reason` is what the log may say of a failure: `error` may quote the agent, which may have printed a secret.
    """

    status: ResultStatus
    text: str
    error: str | None = None
    extra: dict[str, Json] = field(default_factory=dict[str, Json])
    reason: str | None = None
    cause: str = ""


def of_exit(ended: Exit, *, timeout_s: float, idle_timeout_s: float = 0) -> Outcome:
    """Tell what a command that has run came to: success, failure, or a request for approval.

    `cause` names a failure as `retry_on` in the configuration does: timeout, idle, exit:CODE.
    """
    text = decode_output(ended.stdout.head)
    extra = {"exit_code": ended.code, "duration_seconds": round(ended.duration_s, 3), **_measure(ended.stdout)}
    if ended.reason == "timeout":
        reason = f"timed out after {timeout_s:g} s and was ended"
        return Outcome("failed", text, reason, extra, reason, "timeout")
    if ended.reason == "idle":
        reason = f"printed nothing for {idle_timeout_s:g} s and was ended"
        return Outcome("failed", text, reason, extra, reason, "idle")
    if ended.code != 0:
        how = f"exited with status {ended.code}" if ended.code > 0 else f"was ended by signal {-ended.code}"
        reason = f"the command {how}"
        return Outcome("failed", text, reason + _last_words(ended.stderr), extra, reason, f"exit:{ended.code}")
    asks = approval.is_asked_in(text)
    if ended.stdout.truncated:  # in the end of a longer output only a line can ask, and its first may be half of one
        asks = asks or approval.position_in(decode_output(ended.stdout.tail).partition("\n")[2]) is not None
    return Outcome("needs_approval" if asks else "completed", text, None, extra)


def decode_output(data: bytes) -> str:
    """Output as text; what is not UTF-8 becomes U+FFFD, one for each undecodable stretch."""
    return data.decode("utf-8", errors="replace")


def cancelled_outcome(entry: Entry, text: str = "") -> Outcome:
    """The outcome of a task that was cancelled: who asked, and why."""
    request = entry.cancel
    who = f"cancelled by {request.by}" if request else "cancelled"
    why = f": {request.reason}" if request and request.reason else ""
    return Outcome("cancelled", text, who + why)


def _measure(output: Output) -> dict[str, Json]:
    """Where the result holds only the beginning of the output: how much there was."""
    if not output.truncated:
        return {}
    return {"output": {"truncated": True, "bytes": output.size, "kept": len(output.head), "sha256": output.sha256}}


def _last_words(stderr: Output) -> str:
    text = decode_output(stderr.tail).strip()
    if not text:
        return ""
    return f": …{text[-_STDERR_SHOWN:]}" if len(text) > _STDERR_SHOWN else f": {text}"
