"""From how a command ended to what the result says."""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from agentbus.protocol import approval
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.messages import ResultStatus
from agentbus_worker.running.command import Exit, Output

_STDERR_SHOWN: Final = 500
_NOTE_GROWTH: Final = 32  # the note of how much was kept has more digits than that of nothing
_LEFT_OUT: Final[Json] = {"fmt": "text", "content": "[left out by agentbus: too large to be sent back]"}
_ROUTE: Final = ("id", "from", "to", "reply_to", "type", "task_type", "created_at")
_ROUTE_BYTES: Final = 256
_ERROR_BYTES: Final = 1_000


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
    """Judge a command that has run: success, failure, or the wish for an approval.

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


def fit(result: dict[str, Json], limit: int) -> dict[str, Json]:
    """Make a result message no longer than `limit` bytes (a few thousand at least), saying what was cut.

    First the text is cut to its beginning. If the task that it embeds is too large even so (a publisher of agentbus
    would have refused it), the content of the task's payload is left out, then all of the task but its route.
    """
    cut = result
    for shorten in (_as_it_is, _without_content, _with_route_alone):
        message = shorten(result)
        if len(encode(message)) <= limit:
            return message
        bare = {**message, "result": "", "output": _cut_note(result, 0)}
        room = limit - len(encode(bare)) - _NOTE_GROWTH
        kept = _longest_prefix(str(result["result"]), room)
        cut = {**bare, "result": kept, "output": _cut_note(result, len(kept.encode()))}
        if room >= 0:
            break
    return cut


def _as_it_is(result: dict[str, Json]) -> dict[str, Json]:
    return result


def _without_content(result: dict[str, Json]) -> dict[str, Json]:
    return {**result, "task": {**result["task"], "payload": _LEFT_OUT}}


def _with_route_alone(result: dict[str, Json]) -> dict[str, Json]:
    """What a reader needs to know which task it was; of a message that is no valid task, the beginnings."""
    task = result["task"]
    route = {name: _longest_prefix(task[name], _ROUTE_BYTES) for name in _ROUTE if isinstance(task.get(name), str)}
    shorter = {**result, "task": {**route, "payload": _LEFT_OUT}}
    if isinstance(error := result.get("error"), str) and len(encode(error)) > _ERROR_BYTES:
        shorter["error"] = _longest_prefix(error, _ERROR_BYTES) + "…"
    return shorter


def _cut_note(result: dict[str, Json], kept: int) -> dict[str, Json]:
    whole = str(result["result"]).encode()
    known = result.get("output") or {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    return {**known, "truncated": True, "kept": kept}


def _longest_prefix(text: str, room: int) -> str:
    """The longest beginning of `text` whose JSON form has at most `room` bytes."""
    low, high = 0, min(len(text), max(0, room))
    while low < high:
        middle = (low + high + 1) // 2
        if len(encode(text[:middle])) - 2 <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low]


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
