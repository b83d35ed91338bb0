"""Builds `next`: the tool call that continues from an answer, with its arguments."""

from collections.abc import Iterable, Sequence
from typing import Any

from agentbus.protocol import subjects
from agentbus_mcp.operations.watch import DEFAULT_WAIT_S, WatchRequest
from agentbus_mcp.replies.budget import ANSWER_BYTES, ResponseDetail
from agentbus_mcp.replies.models import AgentResult, NextCall


def wait_call(task_ids: Iterable[str]) -> NextCall:
    """The call that waits for tasks."""
    return NextCall(tool="watch_results", arguments={"task_ids": list(task_ids)})


def watch_tasks_call(request: WatchRequest, detail: ResponseDetail, task_ids: Iterable[str]) -> NextCall:
    """The call that continues to watch tasks, with the arguments of the call that began."""
    ids = list(task_ids)
    first = {"task_ids": ids, "until": "any"} if len(ids) > 1 and request.until == "any" else {"task_ids": ids}
    return NextCall(tool="watch_results", arguments={**first, **_options(request, detail)})


def watch_inbox_call(request: WatchRequest, detail: ResponseDetail, cursor: int) -> NextCall:
    """The call that continues to watch an inbox after a cursor."""
    return NextCall(tool="watch_results", arguments={"cursor": cursor, **_options(request, detail)})


def read_on_call(results: Sequence[AgentResult]) -> NextCall | None:
    """The call that reads on in the first output that was cut; None if none can be read on."""
    for result in results:
        if result.next_offset is not None and subjects.is_task_id(result.task_id):
            arguments = {"task_ids": [result.task_id], "offset": result.next_offset, "max_bytes": ANSWER_BYTES // 2}
            return NextCall(tool="get_results", arguments=arguments)
    return None


def _options(request: WatchRequest, detail: ResponseDetail) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if request.agent is not None:
        options["agent"] = request.agent
    if request.timeout_s > DEFAULT_WAIT_S:
        options["timeout_seconds"] = request.timeout_s
    if detail.level != "concise":
        options["response_format"] = detail.level
    return options
