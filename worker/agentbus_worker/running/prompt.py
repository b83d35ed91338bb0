"""Builds the prompt that an agent command gets for a task."""

from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import Task
from agentbus.protocol.subjects import COORDINATOR, address
from agentbus.visible_text import one_line

_INSTRUCTIONS = """\
Do the task now and answer with a clear result: what you did, what came of it, and anything the sender must know.
Your answer is the whole reply; no person is there to answer you while you work.

Stop before any step that cannot be undone, that reaches outside of what the task names, that costs money, or for
which you are not sure to have permission. Do not take it: answer with status=needs_approval on a line of its own,
and below that line the exact operation that needs approval, and why.

Keep secrets (passwords, tokens, keys) out of your answer."""


def build_prompt(
    task: Task, *, agent: str, owner: str = COORDINATOR, extra_instruction: str = "", preface: str = ""
) -> str:
    """Build the prompt. It never begins with a dash, so no command parses it as an option.

    Who gave the task is the owner: what the message says of its sender is not checked by the bus. `main` may send tasks
    for others.

    Args:
        preface: what the agent should know of the conversation with which the task goes on.
    """
    parts = [
        f"You are the agent {agent}. You have been given a task over agentbus by {_giver(task, owner)}.",
        f"Task type: {_line(task.task_type)}\nTask id: {task.id}",
        *([preface] if preface else []),
        f"The task, as JSON:\n{encode(task.to_json()).decode()}",
        _INSTRUCTIONS,
    ]
    if extra_instruction.strip():
        parts.append(extra_instruction.strip())
    return "\n\n".join(parts) + "\n"


def _giver(task: Task, owner: str) -> str:
    said = _line(task.sender)
    if owner == COORDINATOR:
        return said
    known = address(owner)
    return known if said in (owner, known) else f"{known} (the message says: {said})"


def _line(text: str) -> str:
    """Put a field on one line. It is untrusted, and must not look like a paragraph of the prompt."""
    return one_line(text, lambda _: " ")
