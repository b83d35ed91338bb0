"""The questions in a ledger entry: which there are, in which state, and how an entry changes with one."""

from collections.abc import Iterable
from typing import Literal

from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.questions.question import MAX_QUESTIONS, Answer, Question
from agentbus.protocol.questions.question_ids import QuestionPart

QuestionState = Literal["open", "interrupted", "answered"]


def questions_of(entry: Entry) -> tuple[Question, ...]:
    """Return the questions of a task, the oldest first; none once it has its result, whatever the entry holds."""
    return () if entry.terminal else entry.questions or ()


def state_of(entry: Entry, question: Question) -> QuestionState:
    """Return the state of a question: it is interrupted while the claim of its run is gone and nothing is answered."""
    if question.answer is not None:
        return "answered"
    lives = entry.state == "working" and entry.claim is not None and entry.claim.nonce == question.nonce
    return "open" if lives else "interrupted"


def waiting_in(entry: Entry) -> tuple[Question, ...]:
    """Return those that are not answered: open ones, and interrupted ones."""
    return tuple(question for question in questions_of(entry) if question.answer is None)


def question_named(entry: Entry, part: QuestionPart) -> Question | None:
    """Return one of the questions of a task; None if it has no such question, or no more."""
    return next((question for question in questions_of(entry) if part.names(question)), None)


def with_question(entry: Entry, question: Question) -> Entry | None:
    """Return the entry with one more question; None if it has too many that are not over.

    One that an earlier run has asked for the same is asked anew so, and is listed no more. Those whose answer an agent
    has got make room for it.
    """
    kept = [
        one
        for one in questions_of(entry)
        if one.answer is not None or one.nonce == question.nonce or not one.asks_the_same(question)
    ]
    while len(kept) >= MAX_QUESTIONS:
        over = next((one for one in kept if one.given is not None), None)
        if over is None:
            return None
        kept.remove(over)
    return _with(entry, [*kept, question])


def with_answer(entry: Entry, question: Question, answer: Answer, *, given: str | None = None) -> Entry:
    """Return the entry with the answer to one of its questions.

    Args:
        given: the nonce of the claim whose agent gets it: of a worker that answers by itself.
    """
    return replaced(entry, question.model_copy(update={"answer": answer, "given": given}))


def with_given(entry: Entry, question: Question, nonce: str) -> Entry:
    """Return the entry in which the answer to a question is the one that the agent of a claim gets."""
    return replaced(entry, question.model_copy(update={"given": nonce}))


def replaced(entry: Entry, question: Question) -> Entry:
    """Return the entry with a question in the place of the one of the same claim and number."""
    changed = [
        question if (one.nonce, one.number) == (question.nonce, question.number) else one for one in questions_of(entry)
    ]
    return _with(entry, changed)


def _with(entry: Entry, questions: Iterable[Question]) -> Entry:
    return entry.model_copy(update={"questions": tuple(questions) or None})
