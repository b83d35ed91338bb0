"""Answering a task that asks for approval: the decision goes to its agent as a follow-up task."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

from agentbus.bus.audit_note import note
from agentbus.bus.jetstream import Bus
from agentbus.errors import (
    BusError,
    BusUnavailableError,
    InvalidIdError,
    NoApprovalPendingError,
    PermissionDeniedError,
    QuestionAnsweredError,
    TaskConflictError,
    TaskContentMissingError,
    WrongRevisionError,
)
from agentbus.observability import tracing
from agentbus.protocol import approval, subjects
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.listed.labels import GROUP, group_of
from agentbus.protocol.messages import Task, decode_task
from agentbus.protocol.questions.answering import ANSWERS
from agentbus.protocol.questions.question_ids import question_id
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.task_names import name_for
from agentbus.protocol.timestamps import now
from agentbus.tasks.follow_ups import tell, with_place_note
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.publish import LOST_AFTER_S, Published, publish
from agentbus.tasks.questions.continued_answers import as_published
from agentbus.tasks.questions.describe import still_asked
from agentbus.tasks.status import TaskStatus

ANSWER_SUFFIX: Final = ".answer"
_QUESTION_BYTES: Final = 8_192
_MAX_ID_CHARS: Final = 128
_INSTRUCTIONS: Final = {
    True: "You were given the task in `original` before, and stopped with the request in `question`. It is approved, "
    "as far as `comment` does not limit it: do the task now, with the operation that you asked for. The approval is "
    "for nothing else; stop and ask again before any other operation that needs one.",
    False: "You were given the task in `original` before, and stopped with the request in `question`. It is denied: do "
    "not carry out that operation, nor another with the same effect. Do what is left of the task without it, as "
    "`comment` says, or answer that nothing is left to do.",
}


def answer_id(task_id: str) -> str:
    """Return the id of the follow-up. Each task has one such id, so it can have one answer only.

    Raises:
        InvalidIdError: the id of the task is too long to be followed up.
    """
    follow_up = f"{task_id}{ANSWER_SUFFIX}"
    if len(follow_up) > _MAX_ID_CHARS:
        raise InvalidIdError(
            f"the id {task_id} is too long to be answered; publish a new task that says what is allowed"
        )
    return follow_up


def answer_key(asked: Record) -> TaskKey | None:
    """Return the task that answers one, where there is an answer; None if its id is too long for one."""
    with suppress(InvalidIdError):
        return _answer_key(asked.key, asked.entry.answered_by or asked.key.owner)
    return None


def follow_up(status: TaskStatus, *, sender: str, approve: bool, comment: str) -> Task:
    """Build the task that tells an agent the decision about its request.

    It has the same agent and task type and, from `main`, the same inbox: others have only their own. Its content
    depends on the request and the decision only, so building it again gives the same task.

    Raises:
        NoApprovalPendingError: the task does not wait for an approval.
        TaskContentMissingError: the result does not hold the whole content of the task.
        InvalidIdError: the id of the task is too long to be followed up.
        MessageError: a task cannot carry the comment.
    """
    result = status.result
    if asking := still_asked(status.record.entry):
        ids = ", ".join(question_id(status.name, one) for one in asking)
        raise NoApprovalPendingError(
            f"the task {status.task_id} asks while it runs: answer a question by its id: {ids}"
        )
    if result is None or result.status != "needs_approval":
        raise NoApprovalPendingError(
            f"the task {status.task_id} is {status.state}; only a task whose result is needs_approval can be answered"
        )
    entry = status.record.entry
    if decode_task(encode(result.task)).digest() != entry.digest:
        raise TaskContentMissingError(
            f"the content of the task {status.task_id} is not known any more; publish a new task that says what is "
            "allowed"
        )
    content: dict[str, Json] = {
        "decision": "approved" if approve else "denied",
        "comment": comment,
        "instruction": _INSTRUCTIONS[approve],
        "question": question(result.result),
        "original": result.task.get("payload"),
    }
    fields: dict[str, Json] = {
        "id": answer_id(status.task_id),
        "from": subjects.address(sender),
        "to": subjects.address(status.agent),
        "reply_to": subjects.address(entry.inbox if sender == COORDINATOR else sender),
        "type": "task.request",
        "task_type": entry.task_type,
        "payload": {"fmt": "json", "content": content},
        "created_at": now(),
        ANSWERS: status.task_id,
        **({GROUP: group} if (group := group_of(result.task)) else {}),
    }
    return decode_task(encode(fields))


def question(output: Json) -> str:
    """Return the beginning of the output; of a long one, the part from the request on."""
    text = output if isinstance(output, str) else encode(output).decode()
    asks_at = approval.position_in(text)
    if len(text.encode()) > _QUESTION_BYTES and asks_at:
        text = text[asks_at:]
    return text.encode()[:_QUESTION_BYTES].decode(errors="ignore")


async def _reserve(bus: Bus, record: Record, sender: str) -> Record | None:
    """Note in the entry of a task who answers it: the answers of two coordinators are tasks of different owners.

    Returns the entry with the note; None if it was there before.

    Raises:
        QuestionAnsweredError: another coordinator does.
    """
    while (other := record.entry.answered_by or await _unnoted_answer(bus, record.key, sender)) != sender:
        if other is not None and not await _is_abandoned(bus, record, other):
            raise QuestionAnsweredError(
                f"{other} answers the task {record.task_id}; what was said, and what came of it, shows the task "
                f"{name_for(sender, _answer_key(record.key, other))}"
            )
        try:
            return await _note_answer(bus, record, sender)
        except WrongRevisionError as refusal:
            changed = await Ledger(bus).read_refused(record.key, record.revision, refusal)
            if not isinstance(changed, Record) or changed.revision == record.revision:
                raise
            record = changed
    return None


async def _note_answer(bus: Bus, record: Record, by: str | None) -> Record:
    entry, trace = record.entry.model_copy(update={"answered_by": by}), tracing.carried(record.headers)
    revision = await Ledger(bus).write(record.key, entry, revision=record.revision, trace=trace)
    return replace(record, entry=entry, revision=revision)


def _answer_key(asked: TaskKey, owner: str) -> TaskKey:
    return TaskKey(asked.agent, answer_id(asked.id), owner)


async def _is_abandoned(bus: Bus, record: Record, other: str) -> bool:
    """Whether who noted to answer has not, for longer than any publication takes: its program died in between."""
    with suppress(PermissionDeniedError):  # a member cannot see the tasks of another one
        if isinstance(await Ledger(bus).read(_answer_key(record.key, other)), NoEntry):
            now = (await bus.stream_info(subjects.TASKS_STREAM)).server_time
            return now is not None and (now - record.changed_at).total_seconds() > LOST_AFTER_S
    return False


async def _unnoted_answer(bus: Bus, asked: TaskKey, sender: str) -> str | None:
    """Who answered a task without a note of it, as `main` of version 0.1.0 does with its own; None without one."""
    if sender == COORDINATOR or asked.owner != COORDINATOR:
        return None
    found = await Ledger(bus).read(_answer_key(asked, COORDINATOR))
    return COORDINATOR if isinstance(found, Record) else None


async def send_answer(bus: Bus, status: TaskStatus, *, sender: str, approve: bool, comment: str) -> Published:
    """Publish the follow-up; repeating the same answer is harmless.

    It goes on in the session of the run that asked, where the agent can; see `continued_answers`. `Published.note` says
    where no worker is alive at its place.

    Raises:
        QuestionAnsweredError: it was answered before, with another decision or comment, or by another coordinator.
        CannotContinueError: too many tasks wait for sessions of the agent.
        NoApprovalPendingError, TaskContentMissingError, InvalidIdError, MessageError: see `follow_up`.
        BusError: see `agentbus.tasks.publish.publish`.
    """
    task = follow_up(status, sender=sender, approve=approve, comment=comment)
    task = await as_published(bus, status, task, sender)
    sent = await bus.begun.finish(_send(bus, status, task, sender, "approved" if approve else "denied"))
    return await with_place_note(bus, sent)


async def _send(bus: Bus, status: TaskStatus, task: Task, sender: str, decision: str) -> Published:
    noted = await _reserve(bus, status.record, sender)
    try:
        published = await publish(bus, task, sender)
    except TaskConflictError:
        raise QuestionAnsweredError(
            f"the task {status.task_id} was answered before, with another decision or comment; what was said, and what "
            f"came of it, shows the task {task.id}. An answer cannot be changed: cancel that task, or publish a new one"
        ) from None
    except BusUnavailableError:
        raise  # it may be published
    except (BusError, asyncio.CancelledError):
        if noted is not None:
            with suppress(BusError):  # a note without an answer holds others up for some minutes only
                await _note_answer(bus, noted, None)
        raise
    await tell(bus, task, sender)
    if not published.known:
        await note(bus, "answer", status.record.key, by=sender, detail=decision)
    return published
