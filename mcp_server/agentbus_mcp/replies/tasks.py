"""Builds the views of tasks: pending, looked at, listed, cancelled, and queued in the backlog."""

from collections.abc import Mapping
from typing import Final

from agentbus.coordinator import TaskStatus
from agentbus.errors import AgentBusError, MessageError
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.messages import Payload, decode_task
from agentbus.protocol.progress.events import ProgressMessage
from agentbus.protocol.stored_message import StoredMessage
from agentbus.tasks.questions.describe import still_asked
from agentbus_mcp.replies.models import (
    CancelledTask,
    ListedTask,
    PendingTask,
    ProgressView,
    QueuedTask,
    TaskView,
    UnknownTask,
)
from agentbus_mcp.replies.questions import questions_of
from agentbus_mcp.replies.results import optional_text
from agentbus_mcp.sanitize import as_text, cut, short, visible

_ERROR_CHARS: Final = 1_000
_CONTENT_CHARS: Final = 500
_PENDING_CHARS: Final = 120
"""Of the last event of a run, and of what it asks, where there may be many."""
_PENDING_QUESTIONS: Final = 2
_QUESTION_CHARS: Final = 4_000


def pending_task(
    status: TaskStatus, online: bool | None = None, progress: ProgressMessage | None = None
) -> PendingTask:
    """A task without a result, and since when it is in its state; `online` is shown of a queued one."""
    entry = status.record.entry
    claim = entry.claim if entry.state == "working" else None
    since = claim.since if claim else entry.created_at
    return PendingTask(
        task_id=status.task_id,
        agent=status.agent,
        asked_by=status.name.owner,
        state=entry.state,
        since=short(since) if since else None,
        online=online if entry.state == "queued" else None,
        lost=status.loss_note,
        waits_for=status.waits_for,
        attempt=entry.attempt or None,
        worker=short(claim.worker) if claim else None,
        cancel=_cancel_request(status),
        questions=questions_of(status, _PENDING_CHARS, most=_PENDING_QUESTIONS),
        progress=progress_view(progress, _PENDING_CHARS),
    )


def progress_view(progress: ProgressMessage | None, chars: int = _ERROR_CHARS) -> ProgressView | None:
    """Where a run stands, with at most so many characters of its last event; None if it has told nothing."""
    if progress is None:
        return None
    told = progress.summary()
    return ProgressView(
        last=short(str(told["last"]), chars) if "last" in told else None,
        at=progress.at.isoformat(timespec="seconds") if progress.at else None,
        elapsed_seconds=round(progress.elapsed_s),
        input_tokens=progress.spent.usage.input_tokens,
        output_tokens=progress.spent.usage.output_tokens,
        cost_usd=progress.spent.cost_usd,
    )


def task_view(status: TaskStatus, progress: ProgressMessage | None = None) -> TaskView:
    """A task in any state, without its result."""
    entry = status.record.entry
    claim = entry.claim if entry.state == "working" else None
    return TaskView(
        task_id=status.task_id,
        agent=status.agent,
        asked_by=status.name.owner,
        state=status.state,
        since=short(claim.since) if claim else status.record.changed_at.isoformat(timespec="seconds"),
        lost=status.loss_note,
        attempt=entry.attempt or None,
        worker=short(claim.worker) if claim else None,
        task_type=short(entry.task_type),
        sender=short(entry.sender),
        reply_to=short(entry.inbox),
        created_at=optional_text(entry.created_at),
        content=_content(entry.result),
        cancel=_cancel_request(status),
        questions=questions_of(status, _QUESTION_CHARS),
        progress=progress_view(progress),
        last_failure=short(entry.last_failure) if entry.last_failure else None,
        setbacks=_setbacks(status),
        continues=status.continues,
        waits_for=status.waits_for,
    )


def listed_task(status: TaskStatus) -> ListedTask:
    """A task in a list."""
    entry = status.record.entry
    return ListedTask(
        task_id=status.task_id,
        agent=status.agent,
        asked_by=status.name.owner,
        state=status.state,
        changed_at=status.record.changed_at.isoformat(timespec="seconds"),
        group=status.group,
        about=visible(status.about) or None,
        task_type=short(entry.task_type, 60),
        attempt=entry.attempt if entry.attempt > 1 else None,
        asks=len(still_asked(entry)) or None,
        error=short(status.error, 120) if status.error else None,
        failure=status.failure.code if status.failure else None,
        cost_usd=status.cost_usd,
        continues=status.continues,
        waits_for=status.waits_for,
    )


def cancelled_task(status: TaskStatus) -> CancelledTask:
    """A task, and the effect of a request to cancel it."""
    return CancelledTask(
        task_id=status.task_id,
        agent=status.agent,
        asked_by=status.name.owner,
        state=status.state,
        effect=_effect(status),
    )


def unknown_tasks(errors: Mapping[str, AgentBusError]) -> list[UnknownTask] | None:
    """The ids that could not be looked up; None if there are none."""
    return [
        UnknownTask(task_id=visible(task_id), error=visible(str(error))) for task_id, error in errors.items()
    ] or None


def queued_task(message: StoredMessage, max_bytes: int) -> QueuedTask:
    """A message of the backlog with at most `max_bytes` of its content; `error` says why it is no valid task."""
    view = QueuedTask(
        seq=message.seq, subject=message.subject, stored_at=message.time.isoformat(), bytes=len(message.data)
    )
    try:
        task = decode_task(message.data)
    except MessageError as error:
        return view.model_copy(update={"error": short(str(error), _ERROR_CHARS)})
    payload = task.payload or Payload(content="")
    text = as_text(payload.content)
    content = cut(text, max_bytes)
    fields = {
        "task_id": task.id,
        "sender": short(task.sender),
        "reply_to": optional_text(task.reply_to),
        "task_type": short(task.task_type),
        "payload_fmt": payload.format,
        "content": visible(content),
        "truncated": content != text or None,
    }
    return view.model_copy(update=fields)


def _effect(status: TaskStatus) -> str:
    if status.state == "cancelled":
        return "it is cancelled" if status.record.entry.terminal else "it will not be started"
    if status.settled:
        return "too late: it has its result, and keeps it"
    return "it is being ended; its result will say cancelled unless it finishes first"


def _cancel_request(status: TaskStatus) -> str | None:
    request = status.record.entry.cancel
    if request is None:
        return None
    return short(f"by {request.by} at {request.at}" + (f": {request.reason}" if request.reason else ""), 400)


def _setbacks(status: TaskStatus) -> str | None:
    setbacks = status.record.entry.setbacks
    if setbacks is None:
        return None
    places = ", ".join(f"{place} ({count})" for place, count in setbacks.count.items())
    return short(f"handed back unrun ({setbacks.code}) since {setbacks.since} by {places}", 400)


def _content(result: dict[str, Json] | None) -> str | None:
    """The beginning of a settled task's content, from its result, which holds the whole task."""
    content = object_in(object_in((result or {}).get("task")).get("payload")).get("content")
    return short(as_text(content), _CONTENT_CHARS) if content else None
