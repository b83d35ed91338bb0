"""What a task says that answers a question: which call of a tool was approved or denied, by whom, with which words.

Which call that is stands in the result of the task that asked, which a worker wrote: the answer does not say it, so an
answer is for that operation alone.
"""

from dataclasses import dataclass
from typing import Final

from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.messages import Task
from agentbus.protocol.questions.answering import ANSWERS, ANSWERS_OWNER
from agentbus.protocol.questions.asked_call import AskedCall, asked_call_in
from agentbus.protocol.subjects import COORDINATOR, TaskKey, address, is_agent_id, is_task_id
from agentbus.tasks.incoming import Incoming
from agentbus.tasks.ledger import Ledger

_MAX_COMMENT_CHARS: Final = 8_192
_LEFT: Final = (
    "Do not carry out that operation, nor another with the same effect. Do what is left of the task without it, or "
    "answer that nothing is left to do."
)
_KNOWN: Final = "the task before, as you know it from this conversation"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about the call of a tool with which an earlier run ended.

    Attributes:
        asked: the task whose run that was.
        call: the call; its digest is never empty.
        by: the address of who answered.
    """

    approved: bool
    asked: TaskKey
    call: AskedCall
    by: str
    comment: str = ""

    @property
    def said(self) -> str:
        """What the agent is told: of an approval the comment, of a denial also what follows from it."""
        if self.approved:
            return f"Approved by {self.by}, who says: {self.comment}" if self.comment else ""
        return f"Denied by {self.by}{f': {self.comment}' if self.comment else '.'}\n{_LEFT}"


def told(task: Task) -> Task:
    """Return a task as its agent is told it that goes on with the session in which it asked: without what it knows."""
    payload, fields = task.payload, task.model_extra or {}
    content = object_in(payload.content) if payload is not None else {}
    if payload is None or ANSWERS not in fields or "original" not in content:
        return task
    shorter = {**content, "original": _KNOWN}
    return task.model_copy(update={"payload": payload.model_copy(update={"content": shorter})})


async def decision_of(incoming: Incoming, ledger: Ledger) -> Decision | None:
    """Return the decision that a task tells; None of one that answers nothing, or no call of a tool.

    Raises:
        BusError: the ledger could not be read.
    """
    asked, said = _asked(incoming), _said(incoming)
    decided = said.get("decision")
    if asked is None or decided not in ("approved", "denied"):
        return None
    found: Record | NoEntry = await ledger.read_known(asked, lambda record: record.entry.terminal)
    result = found.entry.result if isinstance(found, Record) else None
    if result is None or result.get("status") != "needs_approval":
        return None
    call, comment = asked_call_in(result), said.get("comment")
    if call is None or not call.arguments_digest:
        return None
    comment = comment.strip()[:_MAX_COMMENT_CHARS] if isinstance(comment, str) else ""
    return Decision(decided == "approved", asked, call, address(incoming.key.owner), comment)


def _asked(incoming: Incoming) -> TaskKey | None:
    """Return the task that a task answers; None if it answers none, or one that its owner may not answer."""
    fields, key = incoming.task.model_extra or {}, incoming.key
    task, owner = fields.get(ANSWERS), fields.get(ANSWERS_OWNER, key.owner)
    if not is_task_id(task) or not is_agent_id(owner) or key.owner not in (COORDINATOR, owner):
        return None
    return TaskKey(key.agent, task, subjects.agent_id(owner))


def _said(incoming: Incoming) -> dict[str, Json]:
    payload = incoming.task.payload
    return object_in(payload.content) if payload is not None else {}
