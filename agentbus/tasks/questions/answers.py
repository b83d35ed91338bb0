"""Answers a question of a run: stores the answer in the ledger, which is durable, and tells the worker, which is fast.

The write is a compare-and-set, so of several answers one is taken. The worker gives it to its agent; if the run was
interrupted, the next attempt gets it, if that asks for the same.
"""

from dataclasses import dataclass
from typing import Final

from agentbus.bus.audit_note import note
from agentbus.bus.jetstream import Bus
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.errors import MessageError, NoQuestionError, QuestionAnsweredError, WrongRevisionError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.questions.question import MAX_COMMENT_CHARS, Answer, Question
from agentbus.protocol.questions.question_ids import QuestionId, QuestionPart, part_of, question_id
from agentbus.protocol.questions.questions_of_entries import question_named, with_answer
from agentbus.protocol.task_names import TaskQuery
from agentbus.protocol.timestamps import now
from agentbus.tasks.find import find, find_newer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.questions.asked import AskedQuestion
from agentbus.tasks.status import TaskStatus

_LAG_TIMEOUT_S: Final = 0.5
"""Of a replica: who has a question from a list is answered no sooner that there is none."""
_LAG_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer that is stored.

    Attributes:
        asked: the question, in the task as it is now.
        known: whether the same answer had been given before.
    """

    asked: AskedQuestion
    known: bool


async def answer(bus: Bus, query: TaskQuery, part: QuestionPart, *, by: str, allow: bool, comment: str) -> GivenAnswer:
    """Store the answer to one question of a task, and tell its worker; repeating the same answer is harmless.

    A caller that is cancelled itself leaves no half of this behind; see `BegunSteps.finish`.

    Args:
        by: the agent id of the coordinator that answers.

    Raises:
        QuestionAnsweredError: it has another answer, or the answer of another party.
        NoQuestionError: the task does not ask this, or is at its end.
        MessageError: the comment is longer than 2000 characters.
        TaskNotFoundError: see `find`.
    """
    if len(comment) > MAX_COMMENT_CHARS:
        raise MessageError(f"the comment has {len(comment)} characters; it may have up to {MAX_COMMENT_CHARS}")
    wanted = Answer(allow=allow, comment=comment, by=subjects.address(by), at=now())
    while True:
        record, question = await _find(bus, query, part)
        if question.answer is not None:
            return _known(record, query, question, wanted)
        try:
            revision = await bus.begun.finish(_give(bus, record, question, wanted, by))
        except WrongRevisionError:
            continue  # a renewal, another answer, or the end
        status = TaskStatus(await find_newer(bus, record, revision), query.asker)
        answered = question.model_copy(update={"answer": wanted})
        return GivenAnswer(AskedQuestion(status, answered), known=False)


async def _find(bus: Bus, query: TaskQuery, part: QuestionPart) -> tuple[Record, Question]:
    """Read the entry of a task that asks a question. A replica that answers may not have the question yet."""
    async for attempt in retry_until(deadline_after(_LAG_TIMEOUT_S), _LAG_PAUSE_S):
        record = await find(bus, query)
        status, question = TaskStatus(record, query.asker), question_named(record.entry, part)
        if status.settled or record.entry.cancel is not None:
            ends = "" if status.settled else ", and is being cancelled"
            raise NoQuestionError(f"the task {status.name} is {status.state}{ends}: it asks nothing any more")
        if question is not None:
            return record, question
        if attempt.last:
            raise NoQuestionError(
                f"the task {status.name} does not ask {QuestionId(status.name, part)}, or not any more; what it asks "
                "shows: agentbus question list"
            )
    raise AssertionError("the last attempt returns or raises")


def _known(record: Record, query: TaskQuery, question: Question, wanted: Answer) -> GivenAnswer:
    """Take an answer that is there for this one, if it says the same.

    Raises:
        QuestionAnsweredError: it does not.
    """
    status, given = TaskStatus(record, query.asker), question.answer
    assert given is not None, "the question has an answer"
    if (given.by, given.allow, given.comment) == (wanted.by, wanted.allow, wanted.comment):
        return GivenAnswer(AskedQuestion(status, question), known=True)
    raise QuestionAnsweredError(
        f"{given.by} has {'approved' if given.allow else 'denied'} {question_id(status.name, question)} at {given.at}; "
        "the first answer counts"
    )


async def _give(bus: Bus, record: Record, question: Question, wanted: Answer, by: str) -> int:
    """Write the answer and tell the worker; returns the revision of the entry."""
    entry = with_answer(record.entry, question, wanted)
    revision = await Ledger(bus).write(record.key, entry, revision=record.revision)
    part, decision = str(part_of(question)), "approved" if wanted.allow else "denied"
    await note(bus, "answer", record.key, by=by, detail=f"{decision} {part}")
    # The worker would also read the answer from the ledger when it next renews its lease; this is faster.
    told = {"answer": record.task_id, "question": part, **record.key.owner_field}
    await bus.publish(subjects.control(record.agent), encode(told))
    return revision
