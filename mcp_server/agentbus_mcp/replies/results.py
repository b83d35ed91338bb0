"""Builds the view of a result, from the ledger or from a message of an inbox, with its output still to be cut."""

from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, cast

from agentbus.coordinator import TaskStatus
from agentbus.errors import MessageError
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.messages import Result
from agentbus.protocol.outcomes.run_report import Run
from agentbus.protocol.task_names import name_for
from agentbus_mcp.operations.characters import size_of
from agentbus_mcp.operations.inbox import CheckedMessage
from agentbus_mcp.operations.output import (
    OutputPart,
    output_of_result,
    output_of_task,
    output_of_text,
)
from agentbus_mcp.replies.models import AgentResult, DeniedCall, FailureView, RunView, TokensView
from agentbus_mcp.replies.reasons import shortened
from agentbus_mcp.replies.work import concise_work, work_in
from agentbus_mcp.sanitize import cut_to_fit, short, visible

_ERROR_CHARS: Final = 1_000
_FAILURE_CHARS: Final = 200
CONCISE_FILES: Final = 8
"""How many files a concise result lists, where there is room."""


def results_in(structure: Any) -> list[tuple[str, str]]:
    """Return the tasks, each as its agent and its id, whose results an answer holds."""
    found = object_in(structure).get("results")
    views = [object_in(one) for one in cast("list[Any]", found)] if isinstance(found, list) else []
    pairs = [(view.get("agent"), view.get("task_id")) for view in views]
    return [(agent, task_id) for agent, task_id in pairs if isinstance(agent, str) and isinstance(task_id, str)]


@dataclass(frozen=True, slots=True)
class UncutResult:
    """A result with the part of its output that is at hand; `cut` fits it into the bytes that an answer has for it."""

    view: AgentResult
    output: OutputPart

    def cut(self, max_bytes: int, json_bytes: int | None = None, *, always_size: bool = True) -> AgentResult:
        """The result with at most `max_bytes` of its output, and `json_bytes` (default: twice that) as JSON."""
        output = self.output
        shown = cut_to_fit(output.text, max_bytes, 2 * max_bytes if json_bytes is None else json_bytes)
        end = output.offset + size_of(output.data, len(shown))
        fields = {
            "output": visible(shown),
            "offset": output.offset or None,
            "truncated": end < output.total_bytes or None,
            "output_bytes": output.total_bytes if always_size or end < output.total_bytes else None,
            "next_offset": end if end < output.readable_bytes else None,
        }
        return self.view.model_copy(update=fields)


def result_of_task(status: TaskStatus, output: OutputPart | None = None) -> UncutResult:
    """The result of a settled task. Its ids are those of the ledger's key, whatever the result states."""
    try:
        result = status.result
    except MessageError as error:
        view = _invalid_view(str(error))
    else:
        view = _view(result, status.asker) if result else _cancelled_view(status)
    view = view.model_copy(update={"task_id": status.task_id, "agent": status.agent, "asked_by": status.name.owner})
    if output is not None and output.artifact is not None:  # what else it has left is not asked for
        view = view.model_copy(update={**concise_work(view, 0), "changes": None, "artifact": visible(output.artifact)})
    return UncutResult(view, output or output_of_task(status))


def result_of_message(checked: CheckedMessage) -> UncutResult:
    """The result in a message of an inbox, or an account of what is there in its place."""
    message = checked.message
    if message.result is None:
        view, output = _invalid_view(message.fault or ""), output_of_text(message.data.decode(errors="replace"))
    else:
        readable = checked.in_ledger and not checked.unverified
        view = _view(message.result, checked.reader)
        output = checked.output or output_of_result(message.result, readable=readable)
    fields = {"seq": message.seq, "unverified": checked.unverified}
    return UncutResult(view.model_copy(update=fields), output)


def concise(view: AgentResult, error_chars: int, *, figures: bool = True, files: int = CONCISE_FILES) -> AgentResult:
    """Reduce a result to what is needed to judge it, and to ask for the rest. Its error still says why.

    Args:
        figures: whether it has the model and the tokens beside the cost.
        files: how many files it lists that its run has left.
    """
    left_out = ("worker", "task_type", "completed_at", "attempt", "exit_code", "duration_seconds", "seq")
    fields: dict[str, Any] = dict.fromkeys(left_out)
    if not figures:
        fields |= {"model": None, "tokens": None}
    if view.artifact is None:
        fields |= concise_work(view, files)
    fields["error"] = shortened(view.error, error_chars) if view.error else None
    run = view.run  # that a conversation was begun anew changes what the answer is worth
    told = run is not None and (run.denied or run.resumed is False)
    fields["run"] = RunView(denied=run.denied, resumed=run.resumed) if run is not None and told else None
    if (failure := view.failure) is not None:
        said = shortened(failure.message, error_chars) if failure.message else None
        fields["failure"] = failure.model_copy(update={"message": said})
    return view.model_copy(update=fields)


def _view(result: Result, reader: str) -> AgentResult:
    more = result.model_extra or {}
    return AgentResult(
        task_id=optional_text(result.task_id),
        agent=result.agent or None,
        asked_by=name_for(reader, result.key).owner if result.key else None,
        status=result.status,
        remark=result.remark,
        error=short(result.error, _ERROR_CHARS) if result.error else None,
        failure=_failure(result),
        **_figures(result),
        run=_run(result.run),
        **work_in(more),
        worker=optional_text(more.get("worker")),
        task_type=optional_text(result.task.get("task_type")),
        completed_at=optional_text(result.completed_at),
        attempt=_count(more.get("attempt")),
        exit_code=_count(more.get("exit_code")),
        duration_seconds=_seconds(more.get("duration_seconds")),
    )


def _failure(result: Result) -> FailureView | None:
    if (found := result.failure) is None:
        return None
    said = not found.message or found.message in (result.error or "")
    return FailureView(
        code=found.code,
        message=None if said else short(found.message, _FAILURE_CHARS),
        http_status=found.http_status,
        retry_after_s=found.retry_after_s,
    )


def _figures(result: Result) -> dict[str, Any]:
    run, used = result.run, result.usage
    model = optional_text(run.model) if run else None
    if used is None:
        return {"model": model}
    counts = run.usage if run and used.runs == 1 else used  # one run alone tells what it does not know
    tokens = TokensView(input=counts.input_tokens, cached_input=counts.cached_input_tokens, output=counts.output_tokens)
    return {
        "model": model,
        "cost_usd": used.cost_usd if used.with_cost else None,
        "tokens": tokens if used.with_tokens else None,
    }


def _run(run: Run | None) -> RunView | None:
    if run is None:
        return None
    denied = [
        DeniedCall(tool=short(one.tool), summary=short(one.summary, _FAILURE_CHARS) if one.summary else None)
        for one in run.denied
    ]
    return RunView(
        kind=optional_text(run.kind),
        format=optional_text(run.format),
        version=optional_text(run.version),
        session=optional_text(run.session),
        resumed=run.resumed,
        turns=run.turns,
        denied=denied or None,
    )


def _cancelled_view(status: TaskStatus) -> AgentResult:
    """A task that was cancelled before it started, whose result message is not written yet."""
    request = status.record.entry.cancel
    why = f"cancelled by {request.by}: {request.reason}" if request else None
    return AgentResult(
        task_type=short(status.record.entry.task_type),
        status="cancelled",
        error=short(why, _ERROR_CHARS) if why else None,
    )


def _invalid_view(fault: str) -> AgentResult:
    return AgentResult(status="invalid", error=short(f"not a valid result: {fault}", _ERROR_CHARS))


def optional_text(value: Json) -> str | None:
    """A short text; None for an empty one and for any other value."""
    return short(value) if isinstance(value, str) and value else None


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31 else None


def _seconds(value: Json) -> float | None:
    return value if isinstance(value, int | float) and isfinite(value) and abs(value) < 1 << 53 else None
