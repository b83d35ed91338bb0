"""Reads what any other command prints: text. Only its exit code, and the known phrases of Hermes, say what it means."""

import re
from typing import Final

from agentbus.protocol import approval
from agentbus.protocol.messages import Failure
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus.protocol.outcomes.run_report import Run
from agentbus_worker.formats.judgement import Ended, Judgement
from agentbus_worker.formats.reasons import Reason, limit_of, reason_of

REASON_CHARS: Final = 500
"""How much of the end of standard error, or of standard output, a failure quotes."""
_HERMES_EMPTY: Final = re.compile(
    r"(?i)(?:\s{0,8}⚠[^\n]{0,200}\n){0,3}\W{0,8}no reply: the model returned empty content"
)
"""Behind the warnings with which its output may begin."""
_HERMES_SAYS: Final = r"API call failed after|Context length exceeded|The model declined to respond|Session not found:"
_HERMES_FAILED: Final = re.compile(rf"\bHTTP (4\d\d|5\d\d)\b|(?m:^)\W{{0,8}}(?:{_HERMES_SAYS})")
_HERMES_ANSWERED: Final = re.compile(rf"\W{{0,8}}(?:HTTP [45]\d\d: |{_HERMES_SAYS})")
"""How an answer of it begins that is none, where no exit code tells."""
_ESCAPES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\r\n]*(?:\x07|\x9c|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
"""What acts on a terminal: colours, titles, the movement of the cursor."""
_STACK_LINE: Final = re.compile(
    r"\s+at .*|[{}\])\s]*|\s*(?:\[object Object\]|\[Symbol\(.*)|\s*\w+: \d+,?|session_id: [\w-]+"
)
"""A line of a stack trace of JavaScript, or what is left of one, or the session of Hermes: it never says why."""


def is_failure_of_hermes(answer: str) -> bool:
    """Whether an answer is what Hermes says when its model has failed; it ends its turn as if all was well."""
    return len(answer) < REASON_CHARS and _HERMES_ANSWERED.match(answer.strip()) is not None


def without_escapes(text: str) -> str:
    """Return a text without what acts on a terminal."""
    return _ESCAPES.sub("", text) if "\x1b" in text or _ESCAPES.search(text) else text


def last_lines(text: str) -> str:
    """Return the last lines of an output that say something, of bounded length, for the reason of a failure."""
    lines = [line.rstrip() for line in without_escapes(text).splitlines()]
    kept = "\n".join(line for line in lines if not _STACK_LINE.fullmatch(line)).strip()
    return f"…{kept[-REASON_CHARS:]}" if len(kept) > REASON_CHARS else kept


def telling_line(text: str) -> str:
    """Return the last line of an output that says why an agent failed, of bounded length; an empty one if none does."""
    lines = without_escapes(text).splitlines()
    found = next((line for line in reversed(lines) if reason_of(line).code and not _STACK_LINE.fullmatch(line)), "")
    return found.strip()[:REASON_CHARS]


def text_outcome(ended: Ended, run: Run) -> Judgement:
    """Judge a command that prints text.

    Exit code 0 is success, unless an agent is known to print otherwise: this reader cannot tell a refusal, a denied
    tool or a cut answer.
    """
    words = last_lines(ended.stderr) or last_lines(ended.stdout_end or ended.stdout)
    code, known = _failure(ended, words if run.kind else "")
    if code is not None:
        code = limit_of(code, known.retry_after_s, longest_wait_s=ended.longest_wait_s)
        message = f"{ended.how}: {words}" if words else ended.how
        return Judgement("failed", ended.stdout, run, Failure(code, message, known.http_status, known.retry_after_s))
    asks = approval.is_asked_in(ended.stdout)
    if ended.stdout_end:  # in the end only a whole line counts, and its first line may be incomplete
        asks = asks or approval.position_in(ended.stdout_end.partition("\n")[2]) is not None
    return Judgement("needs_approval" if asks else "completed", ended.stdout, run)


def _failure(ended: Ended, of_agent: str) -> tuple[FailureCode | None, Reason]:
    """Return why a command failed, if it did. `of_agent` is the reason that a known agent printed as text."""
    if ended.reason in ("timeout", "idle"):
        return ended.reason, Reason(None)
    if ended.given_up is not None:
        given_up = ended.given_up
        return given_up.code, Reason(given_up.code, given_up.http_status, given_up.retry_after_s)
    printed = ended.stdout if len(ended.stdout) < REASON_CHARS else ""
    if _HERMES_EMPTY.match(printed):
        return "empty", Reason(None)
    if ended.reason == "exited" and ended.code == 0:
        return None, Reason(None)
    known = reason_of(printed) if _HERMES_FAILED.search(printed) else reason_of(of_agent)
    if known.code is not None:
        return known.code, known
    return ("signal" if ended.code is not None and ended.code < 0 else "exit"), Reason(None)
