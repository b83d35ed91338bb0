"""Tells from the words and the HTTP status of an error why an agent failed: each agent prints it in its own way."""

import re
from datetime import datetime
from typing import Final, NamedTuple

from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus_worker.formats.reset_times import named_wait_s

_MOST_CHARS: Final = 4_000
"""How much of an error is searched: the longest that a known agent prints has 1,500 characters."""

_STATUS: Final = re.compile(
    r"(?i)\b(?:status(?: ?code)?|http|api error|code)\b[\"']?\s*[:=]?\s*([45]\d\d)\b"
    r"|\b([45]\d\d) (?:unauthorized|forbidden|too many requests|internal server error|bad gateway|service unavailable"
    r"|payment required|not found)"
)
_WORDS: Final[dict[FailureCode, str]] = {
    "session_gone": (
        r"no conversation found|session[^.\n]{0,60}not found|no such session|thread[^.\n]{0,60}not found"
        r"|no (?:rollout|saved session|previous sessions?)[^.\n]{0,40}found|invalid session identifier"
    ),
    "context": r"prompt is too long|context[ _](?:window|length)|token count[^.\n]{0,40}exceeds|too many tokens",
    "turn_limit": r"loop detection halted|tool-call (?:limit|cap) was reached",
    "truncated": r"max_output_tokens|output token (?:maximum|limit)",
    "quota": r"insufficient_quota|quota exceeded|exceeded your (?:current )?quota|usage limit|hit your limit",
    "billing": r"credit balance|billing|payment required|insufficient (?:funds|credits?|balance)",
    "model": (
        r"model[^.\n]{0,80}(?:not found|not exist|not supported|unknown)|model_not_found"
        r"|issue with the selected model|unknown model"
    ),
    "auth": (
        r"unauthori[sz]ed|(?:invalid|incorrect) (?:x-)?api[ -]key|authentication|unauthenticated|not logged in"
        r"|run /login|api key (?:not valid|not found|is missing|expired)|set an auth method"
    ),
    "forbidden": r"forbidden|permission[ _]denied|org not allowed",
    "refused": (
        r"content[ _-]filter|safety (?:settings|filter)|safeguards|usage policy|prohibited content|refus(?:al|ed to)"
    ),
    "empty": r"empty (?:response|content)|no text or thoughts",
    "rate_limit": r"rate[ _]limit|too many requests|resource[ _](?:has been )?exhausted",
    "overloaded": (
        r"overloaded|internal (?:server )?error|service unavailable|bad gateway|high demand|server had an error"
    ),
    "network": (
        r"econn(?:refused|reset|aborted)|enotfound|eai_again|etimedout|epipe|getaddrinfo|socket|fetch failed|network"
        r"|connection (?:refused|error|failed|reset|closed|lost|was closed)|unable to connect|error sending request"
        r"|stream (?:disconnected|closed|ended)|premature close|unexpected end|terminated"
    ),
}
"""What the errors of known agents and vendors say, in the order in which they are looked for."""
_SEARCHED: Final[list[tuple[FailureCode, re.Pattern[str]]]] = [
    (code, re.compile("(?i)" + words)) for code, words in _WORDS.items()
]
_BEFORE_STATUS: Final[tuple[FailureCode, ...]] = ("session_gone", "context", "truncated", "quota", "billing", "model")
"""What vendors answer with a status that means something else: the words say it."""
_OF_STATUS: Final[dict[int, FailureCode]] = {
    401: "auth", 402: "billing", 403: "forbidden", 404: "model", 407: "network", 413: "context", 429: "rate_limit",
    500: "overloaded", 502: "overloaded", 503: "overloaded", 504: "overloaded", 529: "overloaded",
}  # fmt: skip


class Reason(NamedTuple):
    """Why an agent failed, as far as its error tells."""

    code: FailureCode | None
    http_status: int | None = None
    retry_after_s: float | None = None


def reason_of(text: str, http_status: int | None = None, retry_after_s: float | None = None) -> Reason:
    """Read an error.

    Args:
        text: what the agent printed; for an error, never for the answer of a model.
        http_status: that of the model's server, where the agent tells it apart from the text.
        retry_after_s: likewise.
    """
    text = text[:_MOST_CHARS]
    status = http_status if http_status is not None else _status_in(text)
    after_s = retry_after_s if retry_after_s is not None else named_wait_s(text, datetime.now().astimezone())
    found: FailureCode | None = _searched(text)
    if status in _OF_STATUS and (found is None or found not in _BEFORE_STATUS):
        found = _OF_STATUS[status]
    return Reason(found, status, after_s)


def limit_of(code: FailureCode, retry_after_s: float | None, *, longest_wait_s: float) -> FailureCode:
    """Return `quota` or `rate_limit` by the time that the server named with either; any other code as it is.

    Args:
        longest_wait_s: `max_retry_after_seconds`.
    """
    if code not in ("quota", "rate_limit") or retry_after_s is None:
        return code
    return "quota" if retry_after_s > longest_wait_s else "rate_limit"


def _searched(text: str) -> FailureCode | None:
    return next((code for code, words in _SEARCHED if words.search(text)), None)


def _status_in(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1] or found[2]) if found else None
