"""Builds `next`: the tool call that continues from an answer, with its arguments.

It names tasks with their agents: another agent may write a task of the same id, and an id alone is ambiguous then.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from agentbus.protocol.task_names import TaskName
from agentbus_mcp.operations.watch import DEFAULT_WAIT_S, WatchRequest
from agentbus_mcp.replies.budget import ANSWER_BYTES, ResponseDetail
from agentbus_mcp.replies.models import AgentResult, NextCall


def wait_call(tasks: Iterable[TaskName]) -> NextCall:
    """The call that waits for tasks."""
    return NextCall(tool="watch_results", arguments={"task_ids": [str(task) for task in tasks]})


def look_call(task: TaskName) -> NextCall:
    """The call that looks at a task."""
    return NextCall(tool="get_task", arguments={"task_id": str(task)})


def answer_call(question: TaskName | str) -> NextCall:
    """The call that answers a question, or a task that ended with a request, but for the decision."""
    return NextCall(tool="answer_approval", arguments={"task_id": str(question)})


def watch_tasks_call(request: WatchRequest, detail: ResponseDetail, tasks: Iterable[TaskName]) -> NextCall:
    """The call that continues to watch tasks, with the arguments of the call that began."""
    if request.group is not None:
        until = {"until": "any"} if request.until == "any" else {}
        return NextCall(tool="watch_results", arguments={"group": request.group, **until, **_options(request, detail)})
    ids = [str(task) for task in tasks]
    first = {"task_ids": ids, "until": "any"} if len(ids) > 1 and request.until == "any" else {"task_ids": ids}
    return NextCall(tool="watch_results", arguments={**first, **_options(request, detail)})


def watch_inbox_call(request: WatchRequest, detail: ResponseDetail, cursor: int) -> NextCall:
    """The call that continues to watch an inbox after a cursor."""
    agent = {} if request.agent is None else {"agent": request.agent}
    return NextCall(tool="watch_results", arguments={"cursor": cursor, **agent, **_options(request, detail)})


def read_on_call(results: Sequence[AgentResult]) -> NextCall | None:
    """The call that reads on in the first output that was cut; None if none can be read on."""
    for result in results:
        if result.next_offset is not None and (name := result.name) is not None:
            artifact = {} if result.artifact is None else {"artifact": result.artifact}
            place = {"offset": result.next_offset, "max_bytes": ANSWER_BYTES // 2}
            arguments = {"task_ids": [str(name)], **artifact, **place}
            return NextCall(tool="get_results", arguments=arguments)
    return None


def _options(request: WatchRequest, detail: ResponseDetail) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if request.timeout_s > DEFAULT_WAIT_S:
        options["timeout_seconds"] = request.timeout_s
    if detail.level != "concise":
        options["response_format"] = detail.level
    return options
