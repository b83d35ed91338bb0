"""Describes the questions of an unsettled task as JSON, for its status and for lists."""

from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.questions.question import Question
from agentbus.protocol.questions.question_ids import question_id
from agentbus.protocol.questions.questions_of_entries import questions_of, state_of, waiting_in
from agentbus.protocol.task_names import TaskName


def still_asked(entry: Entry) -> tuple[Question, ...]:
    """Return the questions of a task that an answer is of use to: none once its cancellation was requested."""
    return () if entry.cancel is not None else waiting_in(entry)


def questions_json(entry: Entry, name: TaskName) -> list[Json] | None:
    """Describe the questions of a task, the answered ones as well; None if it has none."""
    return [question_json(entry, name, question) for question in questions_of(entry)] or None


def question_json(entry: Entry, name: TaskName, question: Question) -> dict[str, Json]:
    """Describe a question; what is not known of it is left out."""
    answer = question.answer
    account: dict[str, Json] = {
        "id": question_id(name, question),
        "state": state_of(entry, question),
        "operation": question.operation,
        "arguments": question.arguments,
        "arguments_bytes": question.arguments_bytes,
        "folder": question.folder or None,
        "text": question.text or None,
        "asked_at": question.asked_at,
        "until": question.until,
        "answer": answer.model_dump() if answer else None,
    }
    return {key: value for key, value in account.items() if value is not None}
