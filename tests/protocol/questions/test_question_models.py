"""Questions in ledger entries: what is read of them, their ids, and how an entry changes with them."""

from typing import Any

import pytest
from pydantic import ValidationError

from agentbus.errors import CorruptEntryError, InvalidIdError
from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.ledger_entry import Entry, Record, handed_back, lease_ended, read_entry, settled
from agentbus.protocol.messages import new_result, new_task
from agentbus.protocol.questions.question import (
    MAX_ARGUMENTS_BYTES,
    MAX_QUESTIONS,
    Answer,
    Question,
    digest_of,
    shortened,
)
from agentbus.protocol.questions.question_ids import (
    QuestionPart,
    parse_question_id,
    parse_question_part,
    part_of,
    question_id,
)
from agentbus.protocol.questions.questions_of_entries import (
    question_named,
    questions_of,
    state_of,
    waiting_in,
    with_answer,
    with_given,
    with_question,
)
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.task_names import TaskName, task_name
from agentbus.protocol.timestamps import parse_time

TIME = "2026-05-18T00:00:00+00:00"
ANSWER = Answer(allow=True, comment="once", by="agent-main", at=TIME)
WORKING: dict[str, Json] = {
    "state": "working",
    "digest": "d",
    "sender": "agent-main",
    "inbox": "main",
    "task_type": "t",
    "attempt": 1,
    "claim": {"worker": "w", "nonce": "1a2b3c4d5e", "renewals": 0, "lease_s": 30.0, "since": TIME},
}


def asked(number: int = 1, nonce: str = "1a2b3c4d5e", arguments: Json = None, **changes: Any) -> Question:
    return Question(
        number=number,
        nonce=nonce,
        operation="Bash",
        arguments=arguments,
        arguments_digest=digest_of(arguments),
        asked_at=TIME,
        until=TIME,
        **changes,
    )


def read(entry: dict[str, Json]) -> Entry:
    found = read_entry(StoredMessage("$KV.AGENT_STATE.code.t", 1, parse_time(TIME), {}, encode(entry)))
    assert isinstance(found, Record)
    return found.entry


def with_questions(*questions: Question) -> Entry:
    return read({**WORKING, "questions": [question.model_dump() for question in questions]})


# -- the models --------------------------------------------------------------------------------------------------


def test_an_entry_is_read_with_its_questions_as_it_was_written():
    entry = with_questions(asked(arguments={"command": "git push", "none": None}), asked(2, answer=ANSWER))
    again = read(decode(entry.model_dump_json(exclude_none=True).encode()))
    assert again == entry
    assert again.questions is not None
    assert again.questions[0].arguments == {"command": "git push", "none": None}


def test_an_entry_without_a_question_is_as_it_always_was():
    assert read(WORKING).model_dump(exclude_none=True) == WORKING


def test_fields_of_a_newer_writer_are_passed_over_in_a_question():
    entry = read(
        {**WORKING, "questions": [{**asked().model_dump(), "new": 1, "answer": {**ANSWER.model_dump(), "x": 1}}]}
    )
    assert questions_of(entry)[0].answer == ANSWER


@pytest.mark.parametrize(
    "change",
    [
        {"number": 0},
        {"number": 2**40},
        {"nonce": "two parts"},
        {"nonce": ""},
        {"operation": "x" * 257},
        {"arguments": "x" * MAX_ARGUMENTS_BYTES},
        {"arguments_digest": "x"},
        {"arguments_bytes": -1},
        {"folder": "x" * 1025},
        {"text": "x" * 2049},
        {"asked_at": "x" * 300},
        {"until": 7},
        {"answer": {"allow": "perhaps", "by": "x", "at": TIME}},
        {"answer": {**ANSWER.model_dump(), "comment": "x" * 2001}},
        {"answer": {**ANSWER.model_dump(), "by": "x" * 300}},
        {"given": "*"},
    ],
)
def test_what_another_party_may_not_ask_is_no_entry(change: dict[str, Any]):
    with pytest.raises(CorruptEntryError, match=r"questions\.0\."):
        read({**WORKING, "questions": [{**asked().model_dump(), **change}]})
    with pytest.raises(CorruptEntryError, match="questions: "):
        read({**WORKING, "questions": [asked(number + 1).model_dump() for number in range(MAX_QUESTIONS + 1)]})


def test_arguments_that_cannot_be_written_are_no_question():
    with pytest.raises(ValidationError, match="cannot be written as JSON"):
        asked().model_validate({**asked().model_dump(), "arguments": "\ud800"})


@pytest.mark.parametrize("arguments", [None, {"command": "git push"}, ["é" * 4000], "x" * (MAX_ARGUMENTS_BYTES - 2)])
def test_arguments_of_ordinary_length_are_whole(arguments: Json):
    assert shortened(arguments) == (arguments, None)


@pytest.mark.parametrize("arguments", [{"command": "é" * 5000}, ['"' * 9000], "\\" * 9000, "\x00" * 9000])
def test_longer_arguments_are_cut_openly_and_told_apart_by_their_digest(arguments: Json):
    cut, size = shortened(arguments)
    assert isinstance(cut, str)
    assert cut.endswith("…")
    assert size == len(encode(arguments))
    question = asked(arguments=cut, arguments_bytes=size)  # which takes them
    assert digest_of([arguments, 1]) != digest_of(arguments) != question.arguments_digest


def test_the_order_of_keys_does_not_tell_arguments_apart():
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})


# -- ids ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["job-1", "code/job-1", "code/~alice/job.1_x"])
def test_an_id_is_read_as_it_was_written(name: str):
    question = asked(12, nonce="-_3c4d5e6f7")
    text = question_id(task_name(name), question)
    assert text == f"{name}#-_3c4d5e-12"
    found = parse_question_id(text)
    assert found == (task_name(name), part_of(question))
    assert found.part is not None
    assert found.part.names(question)
    assert not found.part.names(asked(13, nonce="-_3c4d5e6f7"))
    assert str(found) == text


def test_the_id_of_a_task_is_the_question_that_ended_it():
    assert question_id(TaskName("job-1", "code")) == "code/job-1"
    assert parse_question_id("code/job-1") == (TaskName("job-1", "code"), None)


@pytest.mark.parametrize(
    "text", ["job#", "job#x", "job#1", "job#a-0", "job#a-01", "job#123456789-1", "job#a b-1", "job#a-1#b-1", "#a-1", ""]
)
def test_other_texts_are_no_ids(text: str):
    with pytest.raises(InvalidIdError):
        parse_question_id(text)


@pytest.mark.parametrize("value", [None, 7, {}, "", "a-", "-1", "a-99999999999"])
def test_what_a_control_message_may_hold_else_names_no_question(value: object):
    assert parse_question_part(value) is None


# -- states, and how an entry changes ----------------------------------------------------------------------------


def test_a_question_is_open_interrupted_or_answered():
    entry = with_questions(asked(), asked(2, answer=ANSWER), asked(1, nonce="other"))
    assert [state_of(entry, question) for question in questions_of(entry)] == ["open", "answered", "interrupted"]
    assert [part_of(question) for question in waiting_in(entry)] == [("1a2b3c4d", 1), ("other", 1)]
    ended = lease_ended(entry, "x")
    assert {state_of(ended, question) for question in waiting_in(ended)} == {"interrupted"}
    back = handed_back(entry)
    assert {state_of(back, question) for question in waiting_in(back)} == {"interrupted"}


def test_a_settlement_drops_the_questions_also_of_a_worker_that_does_not_know_them():
    entry = with_questions(asked())
    task = new_task(to="code", content="work", task_type="t", task_id="t")
    result = new_result(task.to_json(), result_id="r", status="completed")
    assert settled(entry, result).questions is None
    older = settled(entry, result).model_copy(update={"questions": entry.questions})
    assert (questions_of(older), waiting_in(older)) == ((), ())


def test_a_question_is_found_by_its_name():
    entry = with_questions(asked(), asked(2))
    found = question_named(entry, QuestionPart("1a2b3c4d", 2))
    assert found is not None
    assert found.number == 2
    assert question_named(entry, QuestionPart("1a2b3c4d", 3)) is None
    assert question_named(entry, QuestionPart("1a2b3c4e", 1)) is None


def test_an_answer_changes_one_question():
    entry = with_questions(asked(), asked(2))
    changed = with_answer(entry, questions_of(entry)[1], ANSWER)
    assert [one.answer for one in questions_of(changed)] == [None, ANSWER]
    given = with_given(changed, questions_of(changed)[1], "1a2b3c4d5e")
    assert [(one.answer, one.given) for one in questions_of(given)] == [(None, None), (ANSWER, "1a2b3c4d5e")]


def test_a_question_that_an_earlier_run_asked_is_listed_once():
    entry = with_questions(asked(nonce="earlier", arguments=1), asked(2, nonce="earlier", arguments=2))
    changed = with_question(entry, asked(arguments=1))
    assert changed is not None
    assert [part_of(one) for one in questions_of(changed)] == [("earlier", 2), ("1a2b3c4d", 1)]


def test_a_run_that_asks_the_same_twice_at_once_has_two_questions():
    changed = with_question(with_questions(asked()), asked(2))
    assert changed is not None
    assert len(waiting_in(changed)) == 2


def test_answers_that_were_given_make_room_and_what_waits_does_not():
    full = with_questions(*(asked(number + 1) for number in range(MAX_QUESTIONS)))
    assert with_question(full, asked(17)) is None
    first = with_answer(full, questions_of(full)[3], ANSWER, given="1a2b3c4d5e")
    changed = with_question(first, asked(17))
    assert changed is not None
    assert [one.number for one in questions_of(changed)] == [1, 2, 3, *range(5, 18)]
