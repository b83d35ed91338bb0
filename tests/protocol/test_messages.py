"""Tasks and results as JSON: what is read, what is refused, and that nothing is lost on the way through."""

import json
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest

from agentbus.cli.coordinator.inbox_line import inbox_line
from agentbus.errors import InvalidIdError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.ids import make_result_id, new_task_id, random_token
from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.messages import (
    MAX_FAILURE_CHARS,
    MAX_TASK_DEPTH,
    MAX_TASK_TYPE_CHARS,
    Failure,
    Task,
    decode_result,
    decode_task,
    new_result,
    new_task,
)
from agentbus.protocol.timestamps import now
from agentbus.tasks.inbox import InboxMessage
from agentbus_worker.settling.dead_letter import _readable_object as readable  # pyright: ignore[reportPrivateUsage]

TASK: dict[str, Json] = {
    "id": "task-20260518-0001",
    "from": "agent-main",
    "to": "agent-code",
    "reply_to": "agent-main",
    "type": "task.request",
    "task_type": "review_pr",
    "payload": {"fmt": "json", "content": {"repo": "org/repo", "pr": 123}},
    "created_at": "2026-05-18T00:00:00+00:00",
}
RESULT: dict[str, Json] = {
    "id": "result-1",
    "type": "task.result",
    "status": "completed",
    "task": TASK,
    "result": "all good",
    "completed_at": "2026-05-18T00:00:01+00:00",
}


class Mark(Enum):
    """What stands for a value; unlike an object() it has the same name in every run of the tests."""

    LEFT_OUT = "left out"


LEFT_OUT = Mark.LEFT_OUT


def read(**changes: Any) -> Task:
    """The example task with some fields changed (`sender` stands for `from`) or, with LEFT_OUT, left out."""
    return decode_task(json.dumps(with_changes(TASK, changes)).encode())


def with_changes(message: dict[str, Json], changes: dict[str, Any]) -> dict[str, Json]:
    renamed = {("from" if name == "sender" else name): value for name, value in changes.items()}
    return {name: value for name, value in {**message, **renamed}.items() if value is not LEFT_OUT}


def nested(levels: int) -> Json:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


# -- JSON -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="words"),
        pytest.param(b"{} {}", id="two values"),
        pytest.param(b"{'a': 1}", id="single quotes"),
        pytest.param(b'{"a": 1,}', id="trailing comma"),
        pytest.param(b'"\x01"', id="raw control character"),
        pytest.param(b"[NaN]", id="NaN"),
        pytest.param(b"[Infinity]", id="Infinity"),
        pytest.param(b"[-Infinity]", id="-Infinity"),
        pytest.param(b'"\\ud800"', id="escaped lone surrogate"),
        pytest.param(b'"\\udc00\\ud800"', id="escaped surrogates in the wrong order"),
        pytest.param(b'"\xed\xa0\x80"', id="raw lone surrogate"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param(b'"caf\xe9"', id="Latin-1"),
        pytest.param("{}".encode("utf-16"), id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param(b"[" * 100_000, id="endless nesting"),
        pytest.param(b"[" * 300 + b"]" * 300, id="deep nesting"),
        pytest.param(b"9" * 100_000, id="an integer that Python would not write again"),
    ],
)
def test_what_is_not_json_in_utf8_is_refused_on_one_line(data: bytes):
    with pytest.raises(MessageError, match="not JSON: ") as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b" null\n", None),
    ],
    ids=["of duplicate keys the last counts", "a pair of surrogates", "a huge integer", "white space around"],
)
def test_json_is_read_as_python_reads_it(data: bytes, value: Json):
    assert decode(data) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="null"),
        pytest.param("", id="empty string"),
        pytest.param("\N{GRINNING FACE} é \N{LINE SEPARATOR}", id="characters beyond ASCII"),
        pytest.param('\0\x1b\x7f"\\\n', id="control characters"),
        pytest.param({"": [1, -1.5, True, {"a": None}]}, id="all kinds"),
        pytest.param(10**4299, id="the largest integer"),
        pytest.param(5e-324, id="the smallest number"),
        pytest.param(1.7976931348623157e308, id="the largest number"),
    ],
)
def test_what_is_written_is_read_again_as_the_same_value(value: Json):
    assert decode(encode(value)) == value


def test_json_is_written_on_one_line_in_utf8_without_ascii_escapes():
    assert encode({"é": "\N{GRINNING FACE}\n"}) == '{"é":"\N{GRINNING FACE}\\n"}'.encode()


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param({"\udfff": 1}, id="lone surrogate in a key"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param([float("inf")], id="infinity"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param({1, 2}, id="set"),
        pytest.param(datetime.now(UTC), id="time"),
        pytest.param({(1, 2): 3}, id="a key that is no text"),
        pytest.param(nested(100_000), id="endless nesting"),
        pytest.param(circle(), id="a circle"),
    ],
)
def test_what_json_cannot_carry_is_not_written(value: Json):
    with pytest.raises(MessageError, match="cannot be written as JSON"):
        encode(value)


# -- reading a task ---------------------------------------------------------------------------------------------


def test_the_task_of_the_specification_is_read():
    task = read()
    assert (task.id, task.sender, task.to, task.reply_to) == (TASK["id"], "agent-main", "agent-code", "agent-main")
    assert (task.agent, task.task_type, task.created_at) == ("code", "review_pr", TASK["created_at"])
    assert task.payload is not None
    assert task.payload.format == "json"
    assert task.payload.content == {"repo": "org/repo", "pr": 123}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[]", "an array"),
        (b'"task"', "a string"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"7", "a number"),
        (b"7.5", "a number"),
    ],
)
def test_json_that_is_no_object_is_neither_a_task_nor_a_result_and_the_error_says_what_it_is(data: bytes, kind: str):
    for reader in (decode_task, decode_result):
        with pytest.raises(MessageError, match=f"a JSON object is needed, this is {kind}$"):
            reader(data)


@pytest.mark.parametrize("field", ["id", "sender", "to", "type", "task_type"])
@pytest.mark.parametrize("value", [LEFT_OUT, None, "", 7, True, ["code"], {"id": "code"}])
def test_a_required_field_that_is_missing_empty_or_no_text_is_named(field: str, value: Any):
    name = "from" if field == "sender" else field
    with pytest.raises(MessageError, match=f"^not a valid task: {name}: "):
        read(**{field: value})


def test_all_missing_fields_are_named_at_once():
    with pytest.raises(MessageError) as caught:
        decode_task(b"{}")
    assert str(caught.value) == "not a valid task: " + "; ".join(
        f"{name}: is missing" for name in ("id", "from", "to", "type", "task_type")
    )


def test_no_other_name_stands_in_for_the_field_from():
    with pytest.raises(MessageError, match="from: is missing"):
        decode_task(json.dumps({**with_changes(TASK, {"sender": LEFT_OUT}), "sender": "agent-main"}).encode())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "a..b"}, "id: task id"),
        ({"id": "x" * 129}, "id: task id"),
        ({"to": "*"}, "to: agent id"),
        ({"to": "agent-agent-code"}, "to: agent id"),
        ({"type": "task.result"}, "type: "),
        ({"task_type": "x" * (MAX_TASK_TYPE_CHARS + 1)}, "task_type: "),
        ({"reply_to": 7}, "reply_to: "),
        ({"created_at": 1779062400}, "created_at: "),
        ({"payload": "text"}, "payload: "),
        ({"payload": []}, "payload: "),
        ({"payload": {}}, "payload: content is missing"),
        ({"payload": {"fmt": "json"}}, "payload: content is missing"),
        ({"payload": {"fmt": "xml", "content": "x"}}, r"payload\.fmt: "),
        ({"payload": {"fmt": "JSON", "content": "x"}}, r"payload\.fmt: "),
        ({"payload": {"fmt": 7, "content": "x"}}, r"payload\.fmt: "),
    ],
)
def test_a_field_with_a_value_that_the_protocol_does_not_know_is_named(changes: dict[str, Json], reason: str):
    with pytest.raises(MessageError, match=f"^not a valid task: {reason}"):
        read(**changes)


@pytest.mark.parametrize("payload", [{"content": 7}, {"fmt": "text", "content": None}, {"fmt": "", "content": {"a": 1}},
                                     {"fmt": None, "content": ["x"]}])  # fmt: skip
def test_text_content_must_be_a_string(payload: Json):
    with pytest.raises(MessageError, match="content must be a string when fmt is text"):
        read(payload=payload)


@pytest.mark.parametrize("fmt", [LEFT_OUT, None, "", "text"])
def test_a_missing_empty_or_null_format_means_text(fmt: Any):
    task = read(payload=with_changes({"content": "do it"}, {"fmt": fmt}))
    assert task.payload is not None
    assert (task.payload.format, task.payload.content) == ("text", "do it")


@pytest.mark.parametrize("content", [None, "", "text", 0, 1.5, False, [], {}, [{"a": [None]}]])
def test_json_content_is_any_json_value(content: Json):
    task = read(payload={"fmt": "json", "content": content})
    assert task.payload is not None
    assert (task.payload.format, task.payload.content) == ("json", content)


@pytest.mark.parametrize("payload", [LEFT_OUT, None])
def test_a_task_needs_no_payload(payload: Any):
    assert read(payload=payload).payload is None


def test_a_task_at_the_limits_is_still_accepted():
    task = read(id="x" * 128, to="agent-" + "y" * 64, task_type="z" * MAX_TASK_TYPE_CHARS)
    assert (task.id, task.agent, task.task_type) == ("x" * 128, "y" * 64, "z" * 128)


@pytest.mark.parametrize("field", ["sender", "reply_to", "created_at"])
def test_what_the_ledger_copies_from_a_task_is_bounded(field: str):
    read(**{field: "x" * 256})
    with pytest.raises(MessageError, match="at most 256 characters"):
        read(**{field: "x" * 257})


def test_an_error_does_not_quote_the_values_of_a_message():
    with pytest.raises(MessageError) as caught:
        read(payload={"fmt": "hunter2", "content": "hunter2"}, reply_to=["hunter2"], type="hunter2")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b'{"x": [1e400]}'])
@pytest.mark.parametrize("place", ["content", "an unknown field"])
def test_a_number_beyond_a_double_is_refused_wherever_it_stands(number: bytes, place: str):
    message = {**TASK, **({"payload": {"fmt": "json", "content": "?"}} if place == "content" else {"new": "?"})}
    with pytest.raises(MessageError, match="a number is too large"):
        decode_task(encode(message).replace(b'"?"', number))


@pytest.mark.parametrize("place", ["content", "an unknown field"])
def test_a_task_that_is_nested_too_deep_to_be_sent_back_is_refused(place: str):
    def message(levels: int) -> bytes:
        deep = nested(levels)
        return encode(
            {**TASK, **({"payload": {"fmt": "json", "content": deep}} if place == "content" else {"new": deep})}
        )

    above = 2 if place == "content" else 1
    task = decode_task(message(MAX_TASK_DEPTH - above))
    # As deep as that, it can still be read in a result, and the result in a ledger entry.
    result = new_result(task.to_json(), result_id="r", status="completed")
    assert decode(encode({"result": result.to_json()}))["result"]["task"] == task.to_json()
    with pytest.raises(MessageError, match=f"nested deeper than {MAX_TASK_DEPTH} levels"):
        decode_task(message(MAX_TASK_DEPTH - above + 1))


# -- nothing is lost --------------------------------------------------------------------------------------------

ODD_NAMES = [
    "priority", "sender", "agent", "inbox", "digest", "to_json", "format", "model_config", "model_extra",
    "model_fields_set", "__class__", "__dict__", "__pydantic_extra__", "_private", "", "with space", "é", "copy",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("value", [{"deep": [1, None, "é"]}, None, 12345678901234567890])
def test_fields_of_a_newer_writer_are_kept_whatever_their_name(name: str, value: Json):
    message = {**TASK, name: value, "payload": {"fmt": "text", "content": "x", name: value}}
    task = decode_task(encode(message))
    assert decode(encode(task.to_json())) == message
    assert task.agent == "code"
    result = {**RESULT, name: value, "task": message}
    assert decode(encode(decode_result(encode(result)).to_json())) == result


@pytest.mark.parametrize(
    "changes",
    [
        {"to": "code", "sender": "main", "reply_to": "main"},
        {"reply_to": None, "payload": None, "created_at": None},
        {"reply_to": LEFT_OUT, "payload": LEFT_OUT, "created_at": LEFT_OUT},
        {"payload": {"content": "x"}},
        {"payload": {"fmt": None, "content": "x"}},
        {"payload": {"fmt": "", "content": "x"}},
        {"payload": {"fmt": "json", "content": None}},
        {"sender": "not an id", "reply_to": "neither > is this"},
    ],
)
def test_a_task_is_passed_on_as_it_came_with_nothing_added(changes: dict[str, Any]):
    message = with_changes(TASK, changes)
    assert decode_task(encode(message)).to_json() == message


# -- who gets the result ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["code", "agent-code"])
def test_both_forms_of_an_id_name_the_same_agent(address: str):
    assert read(to=address).agent == "code"
    assert read(reply_to=address).inbox("main") == "code"
    assert read(reply_to=LEFT_OUT, sender=address).inbox("main") == "code"


@pytest.mark.parametrize(
    ("reply_to", "sender", "inbox"),
    [
        ("agent-doc", "agent-main", "doc"),
        (LEFT_OUT, "agent-main", "main"),
        (None, "agent-main", "main"),
        ("", "agent-main", "main"),
        ("*", "agent-main", "main"),
        ("agent-agent-doc", "agent-main", "main"),
        ("doc.results", "agent-main", "main"),
        ("doc", "no id", "doc"),
        (">", "no id", "fallback"),
        (LEFT_OUT, "no id", "fallback"),
    ],
)
def test_the_result_goes_to_reply_to_else_to_from_else_to_the_default(reply_to: Any, sender: str, inbox: str):
    assert read(reply_to=reply_to, sender=sender).inbox("fallback") == inbox


# -- the digest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": "2027-01-01T00:00:00+00:00"},
        {"created_at": LEFT_OUT},
        {"to": "code"},
        {"sender": "main"},
        {"reply_to": "main"},
        {"reply_to": LEFT_OUT},
        {"id": "another"},
        {"new_field": 1},
        {"payload": {"content": {"pr": 123, "repo": "org/repo"}, "fmt": "json"}},
    ],
    ids=str,
)
def test_what_does_not_change_the_task_does_not_change_its_digest(changes: dict[str, Any]):
    assert read(**changes).digest() == read().digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"to": "doc"},
        {"sender": "other"},
        {"sender": "no id"},
        {"reply_to": "other"},
        {"task_type": "other"},
        {"payload": LEFT_OUT},
        {"payload": {"fmt": "json", "content": {"repo": "org/repo", "pr": 124}}},
        {"payload": {"fmt": "json", "content": {"repo": "org/repo", "pr": "123"}}},
        {"payload": {"fmt": "json", "content": '{"repo":"org/repo","pr":123}'}},
        {"payload": {"fmt": "text", "content": '{"repo":"org/repo","pr":123}'}},
    ],
    ids=str,
)
def test_another_task_has_another_digest(changes: dict[str, Any]):
    assert read(**changes).digest() != read().digest()


def test_text_and_a_json_string_with_the_same_words_are_different_tasks():
    text, string = (read(payload={"fmt": fmt, "content": "x"}).digest() for fmt in ("text", "json"))
    assert text != string


@pytest.mark.parametrize(
    "payload", [{"content": ""}, {"fmt": None, "content": ""}, {"fmt": "text", "content": ""}, None]
)
def test_all_ways_to_say_nothing_have_one_digest(payload: Json):
    assert read(payload=payload).digest() == read(payload=LEFT_OUT).digest()


def test_the_border_between_two_fields_counts():
    assert read(sender="ab", task_type="c").digest() != read(sender="a", task_type="bc").digest()


# -- building tasks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "agent-"])
def test_a_new_task_carries_the_prefixed_form_of_all_its_ids(prefix: str):
    task = new_task(to=prefix + "code", sender=prefix + "main", reply_to=prefix + "doc", content="x", task_type="t")
    assert (task.to, task.sender, task.reply_to) == ("agent-code", "agent-main", "agent-doc")
    assert (task.agent, task.inbox("other")) == ("code", "doc")


def test_a_new_task_holds_all_fields_and_a_reader_gets_it_as_it_is():
    before = datetime.now(UTC)
    task = new_task(to="code", content="do it", task_type="t")
    message = task.to_json()
    assert list(message) == ["id", "from", "to", "reply_to", "type", "task_type", "payload", "created_at"]
    assert (message["from"], message["reply_to"], message["type"]) == ("agent-main", "agent-main", "task.request")
    assert message["payload"] == {"fmt": "text", "content": "do it"}
    assert before <= datetime.fromisoformat(message["created_at"]) <= datetime.now(UTC)
    assert decode_task(encode(message)) == task


def test_the_reply_goes_to_the_sender_unless_somebody_else_is_named():
    assert new_task(to="code", sender="doc", content="x", task_type="t").reply_to == "agent-doc"


@pytest.mark.parametrize("field", ["to", "sender", "reply_to"])
@pytest.mark.parametrize("agent", ["*", "", "a.b", "agent-agent-x", "x" * 65])
def test_a_new_task_is_not_built_with_an_invalid_agent(field: str, agent: str):
    fields: dict[str, Any] = {"to": "code", "content": "x", "task_type": "t", field: agent}
    with pytest.raises(InvalidIdError):
        new_task(**fields)


@pytest.mark.parametrize("task_id", ["", ".x", "a b", "x" * 129])
def test_a_new_task_is_not_built_with_an_invalid_id(task_id: str):
    with pytest.raises(InvalidIdError):
        new_task(to="code", content="x", task_type="t", task_id=task_id)


@pytest.mark.parametrize("task_type", ["", "x" * 129, "two\nlines", "bell\a", "\x1b[31mred", "\u202eturned", "\ud800"])
def test_a_new_task_is_not_built_with_a_type_that_nobody_can_read(task_type: str):
    with pytest.raises(MessageError):
        new_task(to="code", content="x", task_type=task_type)


@pytest.mark.parametrize(
    ("content", "payload_format"),
    [
        pytest.param(7, "text", id="text that is none"),
        pytest.param(None, "text", id="no text"),
        pytest.param("\ud800", "text", id="lone surrogate"),
        pytest.param(float("nan"), "json", id="NaN"),
        pytest.param(float("inf"), "json", id="infinity"),
        pytest.param(b"x", "json", id="bytes"),
        pytest.param(nested(MAX_TASK_DEPTH), "json", id="nested deeper than allowed"),
        pytest.param(nested(300), "json", id="nested deeper than readers go"),
        pytest.param(nested(100_000), "json", id="nested without end"),
        pytest.param(10**4300, "json", id="an integer that nobody reads"),
        pytest.param({1: "a", "1": "b"}, "json", id="keys that are equal once they are strings"),
        pytest.param([{"deep": {True: 1, "true": 2}}], "json", id="such keys further down"),
    ],
)
def test_content_that_no_reader_could_take_fails_before_it_is_sent(content: Json, payload_format: Any):
    with pytest.raises(MessageError):
        new_task(to="code", content=content, task_type="t", payload_format=payload_format)


def test_task_ids_name_the_day_are_valid_and_never_repeat():
    today = datetime.now(UTC)
    ids = {new_task_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(subjects.task_id(task_id) for task_id in ids)
    assert {task_id.split("-")[1] for task_id in ids} <= {f"{today + timedelta(days=day):%Y%m%d}" for day in (0, 1)}


def test_a_token_is_made_of_characters_that_are_not_misread():
    token = random_token(2000)
    assert len(token) == 2000
    assert not set(token) - set("23456789abcdefghjkmnpqrstvwxyz")
    # 30 symbols at least would give 98 bits for the 20 characters of an id; all of them are in use.
    assert len(set(token)) >= 30


def test_the_result_id_is_the_same_for_one_claim_and_another_for_every_other():
    assert make_result_id("code", "t", "n") == make_result_id("code", "t", "n")
    assert (
        len({make_result_id(*parts) for parts in (("a", "t", "n"), ("b", "t", "n"), ("a", "u", "n"), ("a", "t", "m"))})
        == 4
    )


def test_the_time_of_a_message_is_rfc_3339_in_utc_with_microseconds():
    stamp = now()
    assert stamp.endswith("+00:00")
    assert datetime.fromisoformat(stamp).tzinfo == UTC
    assert abs(datetime.now(UTC) - datetime.fromisoformat(stamp)) < timedelta(minutes=1)


# -- results ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "failed", "needs_approval", "cancelled"])
def test_a_result_is_read_in_every_status(status: str):
    result = decode_result(encode({**RESULT, "status": status}))
    assert (result.status, result.result, result.error) == (status, "all good", None)
    assert (result.task_id, result.agent) == (TASK["id"], "code")


def test_a_result_with_an_empty_id_is_refused():
    with pytest.raises(MessageError, match="id: is empty"):
        decode_result(encode({**RESULT, "id": ""}))


@pytest.mark.parametrize("field", ["id", "type", "status", "task"])
@pytest.mark.parametrize("value", [LEFT_OUT, None, 7, "nonsense"])
def test_a_result_with_a_wrong_field_is_refused_by_its_name(field: str, value: Any):
    if (field, value) == ("id", "nonsense"):
        value = ["nonsense"]
    with pytest.raises(MessageError, match=f"^not a valid result: {field}: "):
        decode_result(encode(with_changes(RESULT, {field: value})))


@pytest.mark.parametrize("task", [{}, {"id": 7, "to": 7}, {"id": None, "to": "*"}, {"to": "agent-agent-code"}])
def test_a_result_of_a_task_that_cannot_be_read_names_no_task_and_no_agent(task: Json):
    result = decode_result(encode({**RESULT, "task": task}))
    assert (result.task_id, result.agent) == ("", "")
    assert result.to_json()["task"] == task


@pytest.mark.parametrize("value", [None, "", {"rows": [1, 2]}, ["a"], 7])
def test_the_output_in_a_result_is_any_json_value(value: Json):
    assert decode_result(encode({**RESULT, "result": value})).result == value


def test_a_new_result_embeds_the_task_as_it_stands_and_adds_what_it_is_told():
    message = {**TASK, "new_field": [1]}
    built = new_result(message, result_id="r", status="failed", result="half", error="why", extra={"attempt": 2})
    result = built.to_json()
    assert decode_result(encode(result)) == built
    assert decode_result(encode(result)).to_json() == result
    assert [*result] == ["id", "type", "status", "task", "result", "error", "completed_at", "attempt"]
    stamp = result.pop("completed_at")
    assert result == {
        "id": "r", "type": "task.result", "status": "failed", "task": message, "result": "half", "error": "why",
        "attempt": 2,
    }  # fmt: skip
    assert datetime.fromisoformat(stamp).tzinfo == UTC


def test_a_new_result_without_a_fault_has_no_error_field():
    assert "error" not in new_result(TASK, result_id="r", status="completed").to_json()


def test_a_failure_is_written_and_read_again():
    built = new_result(TASK, result_id="r", status="failed", error="why", failure=Failure("not_ended", "it runs on"))
    result = built.to_json()
    assert result["failure"] == {"code": "not_ended", "message": "it runs on"}
    assert decode_result(encode(result)).failure == built.failure == Failure("not_ended", "it runs on")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"code": "quota", "message": "used up", "retry_after_s": 60}, Failure("quota", "used up", None, 60)),
        ({"code": "quota", "message": "used up", "of_a_later_version": 60}, Failure("quota", "used up")),
        ({"code": "not_started"}, Failure("not_started", "")),
        ({"code": "not_started", "message": 7}, Failure("not_started", "")),
        ({"code": "x", "message": "m" * 600}, Failure("x", "m" * MAX_FAILURE_CHARS)),
        ({"code": "Not ended", "message": "m"}, None),
        ({"code": "x\n", "message": "m"}, None),
        ({"code": "x" * 33}, None),
        ({"message": "m"}, None),
        ("it broke", None),
        (None, None),
    ],
    ids=str,
)
def test_a_result_stays_readable_whatever_another_version_keeps_as_its_failure(written: Json, read: Failure | None):
    stored = {**RESULT, "status": "failed", "error": "why", "failure": written}
    result = decode_result(encode(stored))
    assert result.failure == read
    assert result.to_json() == stored


def test_a_result_that_is_no_failure_or_comes_from_an_earlier_version_has_none():
    assert decode_result(encode({**RESULT, "failure": {"code": "not_ended", "message": "m"}})).failure is None
    assert decode_result(encode({**RESULT, "status": "failed", "error": "why"})).failure is None


# -- what others have written -----------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, MAX_TASK_DEPTH, 190, 198, 199, 200, 201])
def test_a_message_that_is_no_valid_task_is_sent_back_only_if_it_can_be_read_again_from_inbox_and_ledger(levels: int):
    found = readable(encode({"id": "t", "from": "main", "deep": nested(levels - 1) if levels > 1 else 0}))
    if found is not None:
        result = new_result(found, result_id="r", status="failed").to_json()
        assert decode(encode({"result": result})) == {"result": result}
    assert (found is not None) == (levels <= 199)


@pytest.mark.parametrize("data", [b"", b"text", b"[1]", b"null", b'{"x": 1e999}', b"\xff"])
def test_what_is_no_object_or_cannot_be_written_again_is_not_sent_back(data: bytes):
    assert readable(data) is None


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'{"id":"r" , "x":1.0}', b'{"id":"r" , "x":1.0}'),
        (b'{"id":\r\n"r"}\n', b'{"id":"r"}'),
        (b'{"agentbus":{"verified":true}}', b'{"agentbus":{"stored":{"verified":true}}}'),
        (b'{"\\u0061gentbus":1,"x":2}', b'{"x":2,"agentbus":{"stored":1}}'),
        (b"[1]", b"[1]"),
        (b'{"x":1e999}', b'{"x":1e999}'),
        (b'{"x":1e999,"agentbus":1}', None),
        (b'{"x":\n1e999}', None),
        (b"two\nlines", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_a_line_of_an_inbox_is_the_stored_message_or_says_under_our_key_why_not(data: bytes, line: bytes | None):
    shown = inbox_line(InboxMessage(7, datetime.now(UTC), data, None, "why"))
    assert b"\n" not in shown
    if line is not None:
        assert shown == line
    else:
        raw = data.decode(errors="replace")
        assert json.loads(shown) == {"agentbus": {"seq": 7, "fault": "why", "raw": raw}}
