"""Prints one task: what it was about, what became of it, and its output."""

import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from agentbus.cli import lazy, output
from agentbus.cli.fitted_table import ago, duration, moment
from agentbus.cli.output import Styled
from agentbus.protocol.json_codec import Json, encode, object_in
from agentbus.protocol.work.results import left_out_in
from agentbus.tasks.questions.asked import AskedQuestion, asked_by
from agentbus.tasks.work.artifacts import artifacts_of, changes_of
from agentbus.visible_text import one_line

if TYPE_CHECKING:
    from agentbus.protocol.progress.events import ProgressMessage
    from agentbus.tasks.status import TaskStatus

_LABEL: Final = 13
"""How wide the names beside the values are."""
_PROMPT_LINES: Final = 8
_PROMPT_CHARS: Final = 800
_MOST_FILES: Final = 10
_QUESTION_CHARS: Final = 300


def show(
    status: "TaskStatus",
    progress: "ProgressMessage | None" = None,
    conversation: list[str] | None = None,
    *,
    content: "Json" = None,
    full: bool = False,
) -> None:
    """Print a task: what is known of it and its output on a terminal, one line of JSON in a pipe.

    Args:
        content: of the task, as it lies in the queue, where its result does not hold it.
        full: print the whole prompt, and not its beginning.
    """
    if not output.tabular():
        tasks: dict[str, Json] = {"conversation": [*conversation]} if conversation else {}
        told: dict[str, Json] = {"progress": progress.summary()} if progress else {}
        output.json_line(status.to_json() | tasks | told)
        return
    does = [("does", progress.in_words)] if progress else []
    for name, value in (*_of_task(status), *does, *_of_end(status, conversation or [])):
        if value:
            _print_row(name, value)
    _print_prompt(status, _content(status) if content is None else content, full=full)
    _print_output(status)


def _print_output(status: "TaskStatus") -> None:
    result = status.record.entry.result or {}
    remark = f"({status.result.remark})" if status.result and status.result.remark else None
    for at, text in enumerate(filter(None, (result.get("error"), result.get("result"), remark))):
        if not at:
            output.line("")
        output.said_line(str(text))


def _of_task(status: "TaskStatus") -> list[tuple[str, str]]:
    now, entry = datetime.now(UTC), status.record.entry
    claim = entry.claim if entry.state == "working" else None
    return [
        ("task", status.task_id),
        ("state", status.state_in_words),
        ("agent", status.agent),
        ("owner", status.owner),
        ("group", status.group or ""),
        ("type", entry.task_type),
        ("from", entry.sender + ("" if entry.inbox == status.owner else f", results to {entry.inbox}")),
        ("published", _time(now, moment(entry.created_at))),
        ("changed", _time(now, status.record.changed_at)),
        ("worker", claim.worker if claim else str((entry.result or {}).get("worker") or "")),
        ("attempt", str(entry.attempt) if entry.attempt > 1 else ""),
        ("runs for", ago(now, moment(claim.since)) if claim else ""),
    ]


def _of_end(status: "TaskStatus", conversation: list[str]) -> list[tuple[str, str]]:
    entry = status.record.entry
    changes = changes_of(status) if entry.terminal else None
    work = f"{changes.files} files in {changes.branch}: agentbus work show {status.name}" if changes else ""
    return [
        *_of_result(entry.result or {}),
        *(lazy.figures.of_run(status.run).items() if status.run else ()),
        ("all runs", lazy.figures.of_runs(status.usage) if entry.earlier and status.usage else ""),
        ("continues", status.continues or ""),
        ("conversation", ", ".join(conversation)),
        ("files", _files(status)),
        ("changes", work),
        *(("asks", _question(one)) for one in asked_by(status)),
        ("answered by", entry.answered_by or ""),
        ("cancel", cancel_in_words(status, datetime.now(UTC))),
        ("setbacks", _setbacks(status)),
        ("failed before", entry.last_failure or ""),
        ("lost", status.loss_note or ""),
    ]


def _question(asked: AskedQuestion) -> str:
    arguments = "" if asked.arguments is None else encode(asked.arguments).decode()
    says = f"{asked.operation} {arguments}".strip() or asked.text
    return f"{one_line(says[:_QUESTION_CHARS])}; agentbus question answer {asked.id} --approve, or --deny"


def _of_result(result: dict[str, Json]) -> list[tuple[str, str]]:
    code, took = result.get("exit_code"), result.get("duration_seconds")
    return [
        ("exit code", str(code) if isinstance(code, int) else ""),
        ("took", duration(took) if isinstance(took, int | float) and took >= 0 else ""),
    ]


def cancel_in_words(status: "TaskStatus", now: datetime) -> str:
    """Say who wanted the task to end, when and why, and what that does; nothing where no one did."""
    request = status.record.entry.cancel
    if request is None:
        return ""
    at = moment(request.at)
    when = f" {ago(now, at)} ago" if at else ""
    why = f": {request.reason}" if request.reason else ""
    effect = {"working": "; it is being ended", "cancelled": ""}.get(status.state, "; it was too late")
    return f"asked for by {request.by}{when}{why}{effect}"


def _time(now: datetime, then: datetime | None) -> str:
    return f"{ago(now, then)} ago ({then.astimezone():%Y-%m-%d %H:%M:%S})" if then else ""


def _files(status: "TaskStatus") -> str:
    if not status.record.entry.terminal:
        return ""
    left = [one.name for one in artifacts_of(status)]
    more = f" and {len(left) - _MOST_FILES} more" if len(left) > _MOST_FILES else ""
    missing = len(left_out_in(status.record.entry.result or {}))
    said = f"{', '.join(left[:_MOST_FILES])}{more}" if left else ""
    return f"{said}{f'; {missing} left out' if missing else ''}".lstrip("; ")


def _setbacks(status: "TaskStatus") -> str:
    found = status.record.entry.setbacks
    if found is None:
        return ""
    return f"handed back unrun {sum(found.count.values())} times by {len(found.count)} places ({found.code})"


def _print_row(name: str, value: str) -> None:
    """Print a name and its value, which is folded between its words where the terminal is narrow."""
    shown = one_line(value)
    width = lazy.fitted_table.terminal_width()
    parts = textwrap.wrap(shown, max(20, width - _LABEL - 1), break_long_words=False, break_on_hyphens=False) or [""]
    state = lazy.fitted_table.colour_of(value)
    output.line(Styled(f"{name:<{_LABEL}} ", bold=True), Styled(parts[0], state))
    for part in parts[1:]:
        output.line(" " * (_LABEL + 1), part)


def _print_prompt(status: "TaskStatus", content: Json, *, full: bool) -> None:
    """Print the content of the task, quoted line by line; before its result is there, its first words."""
    text = (content if isinstance(content, str) else encode(content).decode()) if content is not None else status.about
    if not text:
        return
    shown = text if full else "\n".join(text[:_PROMPT_CHARS].splitlines()[:_PROMPT_LINES])
    output.line(Styled("prompt", bold=True))
    for line in shown.splitlines():
        output.line("  > ", line)
    if len(shown) < len(text.rstrip()):
        output.line(f"  (the beginning of {len(text):,} characters: --full)")
    elif content is None and text.endswith("…"):
        output.line("  (its first words)")


def _content(status: "TaskStatus") -> Json:
    task: dict[str, Any] = object_in((status.record.entry.result or {}).get("task"))
    return object_in(task.get("payload")).get("content")
