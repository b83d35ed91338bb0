"""Asks a person for approval through the client: makes the elicitation of a task, and reads the response."""

from dataclasses import dataclass
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ElicitResult
from pydantic import ValidationError

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import AgentBusError, TaskNotFoundError
from agentbus.protocol.task_names import TaskName
from agentbus.tasks.approvals import ANSWER_SUFFIX, answer_id, question
from agentbus.tasks.questions.asked import AskedQuestion
from agentbus_mcp.operations.look_up import answer_to
from agentbus_mcp.replies.questions import question_view
from agentbus_mcp.sanitize import clip, short, visible

_COMMENT_CHARS: Final = 4_000
_QUESTION_CHARS: Final = 10_000
"""More than the arguments of a question have, so that they are shown whole."""
_FORM: Final = {
    "type": "object",
    "properties": {
        "approve": {
            "type": "boolean",
            "title": "Approve",
            "description": "Yes allows the agent this operation and no other; no forbids it.",
        },
        "comment": {
            "type": "string",
            "title": "Comment",
            "description": "A comment for the agent, e.g. limits.",
        },
    },
    "required": ["approve"],
}


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision of a person."""

    approve: bool
    comment: str


def asks_for_approval(task: TaskStatus) -> bool:
    """Return whether a task asks for approval and can be answered; its id may be too long for that of an answer."""
    if task.state != "needs_approval":
        return False
    try:
        answer_id(task.task_id)
    except AgentBusError:
        return False
    return True


def approval_request(task: TaskStatus) -> dict[str, Any]:
    """Make the elicitation for a task; it quotes the agent line by line."""
    text = question(task.result.result) if task.result is not None else ""
    kind = short(task.record.entry.task_type)
    call, cut = _quoted_call(AskedQuestion(task))
    quoted = "\n".join([*call, *(f"> {line}" for line in visible(text).strip().splitlines())]) + cut
    whose = f" of {task.name.owner}" if task.name.owner else ""
    message = (
        f"The agent {task.agent} has stopped in the task {task.task_id}{whose} ({kind}) before something that needs "
        f"approval. It says:\n\n{quoted}"
    )
    params = {"mode": "form", "message": message, "requestedSchema": _FORM}
    return {"method": "elicitation/create", "params": params}


def permission_request(asked: AskedQuestion) -> dict[str, Any]:
    """Make the elicitation for a question of a run; it quotes the agent line by line.

    Further lines of a text are indented, so that what an agent says does not pass for an operation.
    """
    task = asked.status
    whose = f" of {task.name.owner}" if task.name.owner else ""
    call, cut = _quoted_call(asked)
    quoted = "\n".join([*call, *_quoted("says", visible(asked.text).strip())])
    kind, until = short(task.record.entry.task_type), short(asked.until or "")
    open_until = f"whether it may do something, and waits until {until}"
    over = "whether it may do something, and was interrupted: the answer is kept for the next attempt"
    message = (
        f"The agent {task.agent} asks in the task {task.task_id}{whose} ({kind}) "
        f"{over if asked.state == 'interrupted' else open_until}. It says:\n\n{quoted}{cut}"
    )
    params = {"mode": "form", "message": message, "requestedSchema": _FORM}
    return {"method": "elicitation/create", "params": params}


def _quoted_call(asked: AskedQuestion) -> tuple[list[str], str]:
    """Quote the operation, as far as it is known; and what to say if that is not all of it."""
    view = question_view(asked, _QUESTION_CHARS)
    said = {"operation": view.operation, "with": view.arguments, "in": view.folder}
    lines = [line for name, text in said.items() for line in _quoted(name, text or "")]
    whole = asked.arguments_bytes is None
    return lines, "" if whole else "\n\nThe operation is not shown whole: look at the task before you approve it."


def _quoted(name: str, text: str) -> list[str]:
    if not text:
        return []
    first, *more = text.splitlines()
    return [f"> {name}: {first}", *(f">     {line}" for line in more)]


def read_decision(task_id: str, response: Any) -> Decision | None:
    """Read a response; None if the person postponed the decision. Only an explicit yes approves.

    Raises:
        MCPError: -32602 if the response does not fit the request.
    """
    try:
        result = ElicitResult.model_validate(response)
    except ValidationError:
        raise MCPError(INVALID_PARAMS, f"the response to {task_id} is not the result of an elicitation") from None
    if result.action == "cancel":
        return None
    content = result.content or {}
    approve = content.get("approve") if result.action == "accept" else False
    if not isinstance(approve, bool):
        raise MCPError(INVALID_PARAMS, f"the response to {task_id} must say in `approve` true or false")
    return Decision(approve, clip(str(content.get("comment") or ""), _COMMENT_CHARS))


async def last_follow_up(coordinator: Coordinator, task: TaskStatus) -> TaskStatus:
    """Follow the chain of answers from a task, and return the last task in it."""
    while asks_for_approval(task):
        try:
            task = await answer_to(coordinator, task).status()
        except TaskNotFoundError:
            break
    return task


def is_follow_up(task: TaskName, tasks: frozenset[TaskName]) -> bool:
    """Return whether a task may be one of `tasks`, or a follow-up of one, which another coordinator may have published.

    The owners are left out of it: a caller looks at the task then, and sees whose it is.
    """
    known = {(one.agent, one.task_id) for one in tasks}
    task_id = task.task_id
    while not known & {(task.agent, task_id), (None, task_id)}:
        if not task_id.endswith(ANSWER_SUFFIX):
            return False
        task_id = task_id.removesuffix(ANSWER_SUFFIX)
    return True
