"""Questions of the agents of a test, as they lie in the ledger, and answers to them, as a coordinator writes them."""

import json
from pathlib import Path

from agentbus import Coordinator
from agentbus.errors import WrongRevisionError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode, object_in
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.questions.question import Answer, Question
from agentbus.protocol.questions.question_ids import part_of
from agentbus.protocol.questions.questions_of_entries import question_named, waiting_in, with_answer
from agentbus.protocol.timestamps import now
from agentbus.tasks.ledger import Ledger
from support.harness import eventually


async def record_of(bus: Coordinator, task_id: str) -> Record:
    return (await bus.task(task_id).status()).record


async def waiting(bus: Coordinator, task_id: str, count: int = 1) -> tuple[Question, ...]:
    """Wait until a task has so many questions that are not answered; the questions."""

    async def found() -> tuple[Question, ...] | None:
        asked = waiting_in((await record_of(bus, task_id)).entry)
        return asked if len(asked) == count else None

    result: tuple[Question, ...] = await eventually(found, f"{task_id} has {count} open questions")
    return result


async def answer(bus: Coordinator, task_id: str, question: Question, *, allow: bool, comment: str = "") -> None:
    """Write an answer to a question, and tell the worker of it."""
    await write_answer(bus, task_id, question, allow=allow, comment=comment)
    message = {"answer": task_id, "question": str(part_of(question))}
    await bus.bus.publish(subjects.control("code"), encode(message))


async def write_answer(bus: Coordinator, task_id: str, question: Question, *, allow: bool, comment: str = "") -> None:
    """Write an answer to a question, of which the worker is to find out by itself."""
    given = Answer(allow=allow, comment=comment, by="agent-main", at=now())
    while True:
        record = await record_of(bus, task_id)
        found = question_named(record.entry, part_of(question))
        assert found is not None, f"{task_id} has no such question any more"
        assert found.answer is None, f"it has been answered: {found.answer}"
        try:
            await Ledger(bus.bus).write(record.key, with_answer(record.entry, found, given), revision=record.revision)
        except WrongRevisionError:
            continue
        return


def chosen(log: Path) -> list[tuple[str, str | None]]:
    """What the agent of a test has been answered, by the commands that it asked for, in all its runs."""
    found: list[tuple[str, str | None]] = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        message = object_in(json.loads(line))
        outcome = object_in(object_in(message.get("result")).get("outcome"))
        if outcome:
            found.append((message["id"], outcome.get("optionId")))
    return found
