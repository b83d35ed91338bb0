"""From what lies on the bus to what a client reads of it: foreign text is bounded and made visible."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Final, cast

from agentbus.coordinator import TaskStatus
from agentbus.errors import MessageError
from agentbus.protocol.json_codec import Json
from agentbus.protocol.messages import Payload, Result, decode_task
from agentbus.protocol.stored_message import StoredMessage
from agentbus.tasks.inbox import InboxMessage
from agentbus_mcp.replies.models import (
    AgentResult,
    AgentView,
    ListedTask,
    PendingTask,
    QueuedTask,
    TaskView,
)
from agentbus_mcp.replies.sanitize import as_text, cut, cut_to_fit, name, visible

MAX_BYTES: Final = 4_096
"""How much of an output is shown beside other things, unless asked otherwise."""
ANSWER_BYTES: Final = 65_536
"""How much of all outputs together: hosts cut an answer, or refuse it, at about 25,000 tokens."""
_ERROR_CHARS: Final = 1_000
_CONTENT_CHARS: Final = 500


# -- outputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of an output, as far as it is at hand.

    Attributes:
        size: the bytes of the whole output, as UTF-8.
        offset: where `text` begins in it.
        readable: how far it can be read, by asking for other parts.
    """

    text: str
    size: int
    offset: int = 0
    readable: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """A result whose output is still to be cut to the room that there is."""

    view: AgentResult
    output: Excerpt

    def cut(self, max_bytes: int, json_bytes: int | None = None, *, always_size: bool = True) -> AgentResult:
        """The result with at most `max_bytes` of its output, and `json_bytes` (twice that) as JSON."""
        output = self.output
        shown = cut_to_fit(output.text, max_bytes, 2 * max_bytes if json_bytes is None else json_bytes)
        end = output.offset + len(shown.encode())
        fields = {
            "output": visible(shown),
            "offset": output.offset or None,
            "truncated": end < output.size or None,
            "output_bytes": output.size if always_size or end < output.size else None,
            "next_offset": end if end < output.readable else None,
        }
        return self.view.model_copy(update=fields)


def share(max_bytes: int, count: int) -> int:
    """How much of each of `count` outputs fits."""
    return min(max_bytes, ANSWER_BYTES // max(count, 1))


def of_status(status: TaskStatus, max_bytes: int) -> AgentResult:
    """A settled task's result in full detail, as the ledger holds it, with the beginning of its output."""
    return draft_of_status(status).cut(max_bytes)


def of_message(message: InboxMessage, max_bytes: int, unverified: str | None = None) -> AgentResult:
    """A message of an inbox in full detail: a result, or whatever else somebody has put there."""
    return draft_of_message(message, unverified).cut(max_bytes)


def draft_of_status(status: TaskStatus, output: Excerpt | None = None) -> Draft:
    """A settled task's result, as the ledger holds it. Which task of which agent it is says the ledger's key."""
    try:
        result = status.result
    except MessageError as error:
        draft = _invalid(str(error), as_text(status.record.entry.result))
    else:
        draft = _of_result(result) if result else Draft(_unrun(status), Excerpt("", 0))
    view = draft.view.model_copy(update={"task_id": status.task_id, "agent": status.agent})
    return Draft(view, output or draft.output)


def draft_of_message(message: InboxMessage, unverified: str | None = None, *, by_id: bool = True) -> Draft:
    """A message of an inbox: a result, or whatever else somebody has put there.

    `by_id` says whether it is what the ledger has under its task id, so that its output can be read on there.
    """
    if message.result is None:
        draft = _invalid(message.fault or "", message.data.decode(errors="replace"))
    else:
        draft = _of_result(message.result)
    output = draft.output if by_id and not unverified else replace(draft.output, readable=0)
    return Draft(draft.view.model_copy(update={"seq": message.seq, "unverified": unverified}), output)


def concise(view: AgentResult, error_chars: int) -> AgentResult:
    """What is needed to judge a result, and to ask for the rest."""
    left_out = ("worker", "task_type", "completed_at", "attempt", "exit_code", "duration_seconds", "seq")
    error = name(view.error, error_chars) if view.error else None
    return view.model_copy(update={**dict.fromkeys(left_out), "error": error})


def _of_result(result: Result) -> Draft:
    more = result.model_extra or {}
    text = as_text(result.result)
    at_hand, note = len(text.encode()), _object(more.get("output"))
    size = max(at_hand, _size(note.get("bytes")))
    in_a_file = isinstance(_object(note.get("file")).get("name"), str)
    if in_a_file:  # what is at hand may end in the middle of a character, which the file has whole
        text = text.removesuffix("\ufffd")
    view = AgentResult(
        task_id=_name(result.task_id),
        agent=result.agent or None,
        status=result.status,
        error=name(result.error, _ERROR_CHARS) if result.error else None,
        worker=_name(more.get("worker")),
        task_type=_name(result.task.get("task_type")),
        completed_at=_name(result.completed_at),
        attempt=_count(more.get("attempt")),
        exit_code=_count(more.get("exit_code")),
        duration_seconds=_seconds(more.get("duration_seconds")),
    )
    return Draft(view, Excerpt(text, size, readable=size if in_a_file else at_hand))


def _unrun(status: TaskStatus) -> AgentResult:
    """A task that was cancelled before it started: the message of its result is still to be written."""
    wish = status.record.entry.cancel
    why = f"cancelled by {wish.by}: {wish.reason}" if wish else None
    return AgentResult(
        task_type=name(status.record.entry.task_type),
        status="cancelled",
        error=name(why, _ERROR_CHARS) if why else None,
    )


def _invalid(fault: str, text: str) -> Draft:
    size = len(text.encode())
    view = AgentResult(status="invalid", error=name(f"not a valid result: {fault}", _ERROR_CHARS))
    return Draft(view, Excerpt(text, size))


# -- tasks ------------------------------------------------------------------------------------------------------


def of_pending(status: TaskStatus, online: bool | None = None) -> PendingTask:
    """A task that is not settled: its state, and since when it has it; `online` is shown of a queued one."""
    entry = status.record.entry
    claim = entry.claim if entry.state == "working" else None
    since = claim.since if claim else entry.created_at
    return PendingTask(
        task_id=status.task_id,
        agent=status.agent,
        state=entry.state,
        since=name(since) if since else None,
        online=online if entry.state == "queued" else None,
        attempt=entry.attempt or None,
        worker=name(claim.worker) if claim else None,
        cancel=_wish(status),
    )


def of_task_status(status: TaskStatus) -> TaskView:
    """A task whatever its state, without its result."""
    entry = status.record.entry
    claim = entry.claim if entry.state == "working" else None
    return TaskView(
        task_id=status.task_id,
        agent=status.agent,
        state=status.state,
        since=name(claim.since) if claim else status.record.changed_at.isoformat(timespec="seconds"),
        attempt=entry.attempt or None,
        worker=name(claim.worker) if claim else None,
        task_type=name(entry.task_type),
        sender=name(entry.sender),
        reply_to=name(entry.inbox),
        created_at=_name(entry.created_at),
        content=_content(entry.result),
        cancel=_wish(status),
        last_failure=name(entry.last_failure) if entry.last_failure else None,
    )


def of_listed(status: TaskStatus) -> ListedTask:
    """A task in a list."""
    entry = status.record.entry
    error = (entry.result or {}).get("error")
    return ListedTask(
        task_id=status.task_id,
        agent=status.agent,
        state=status.state,
        changed_at=status.record.changed_at.isoformat(timespec="seconds"),
        task_type=name(entry.task_type, 60),
        attempt=entry.attempt if entry.attempt > 1 else None,
        error=name(error, 120) if isinstance(error, str) and error else None,
    )


def of_task(message: StoredMessage, max_bytes: int) -> QueuedTask:
    """A message of the backlog: a task, or what no worker will accept."""
    view = QueuedTask(
        seq=message.seq, subject=message.subject, stored_at=message.time.isoformat(), bytes=len(message.data)
    )
    try:
        task = decode_task(message.data)
    except MessageError as error:
        return view.model_copy(update={"error": name(str(error), _ERROR_CHARS)})
    payload = task.payload or Payload(content="")
    text = as_text(payload.content)
    content = cut(text, max_bytes)
    fields = {
        "task_id": task.id,
        "sender": name(task.sender),
        "reply_to": _name(task.reply_to),
        "task_type": name(task.task_type),
        "payload_fmt": payload.format,
        "content": visible(content),
        "truncated": content != text or None,
    }
    return view.model_copy(update=fields)


def of_agent(account: dict[str, Json], *, detailed: bool) -> AgentView:
    """An agent of the coordinator's overview. What its workers say of themselves is foreign text."""
    workers: list[dict[str, Json]] = account["workers"]
    described = next((worker["description"] for worker in workers if worker["description"]), None)
    return AgentView(
        agent=account["agent"],
        online=account["online"],
        workers=len(workers),
        free_slots=sum(worker["free"] for worker in workers),
        waiting=account.get("waiting"),
        unacknowledged=account.get("unacknowledged"),
        description=name(described, 500 if detailed else 120) if described else None,
        details=[_worker(worker) for worker in workers] if detailed and workers else None,
    )


def _worker(worker: dict[str, Json]) -> dict[str, Json]:
    shown = ("instance", "host", "version", "command", "slots", "free", "running", "started_at", "seen_at")
    values = {key: worker[key] for key in shown if worker.get(key)}
    values["running"] = [name(task) for task in worker["running"][:32]]
    return {key: name(value) if isinstance(value, str) else value for key, value in values.items()}


def _wish(status: TaskStatus) -> str | None:
    wish = status.record.entry.cancel
    return name(f"by {wish.by} at {wish.at}" + (f": {wish.reason}" if wish.reason else ""), 400) if wish else None


def _content(result: dict[str, Json] | None) -> str | None:
    """The beginning of what a settled task said: its result holds the whole task."""
    content = _object(_object(_object(result).get("task")).get("payload")).get("content")
    return name(as_text(content), _CONTENT_CHARS) if content else None


def _object(value: Json) -> dict[str, Json]:
    return cast("dict[str, Json]", value) if isinstance(value, dict) else {}


def _size(value: Json) -> int:
    """The size that a worker says the output had, where it sent only the beginning."""
    return value if isinstance(value, int) and 0 <= value < 1 << 53 else 0


def _name(value: Json) -> str | None:
    return name(value) if isinstance(value, str) and value else None


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31 else None


def _seconds(value: Json) -> float | None:
    return value if isinstance(value, int | float) and isfinite(value) and abs(value) < 1 << 53 else None
