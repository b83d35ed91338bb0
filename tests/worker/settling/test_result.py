"""The result message of a task, made to fit into a message of the bus."""

import hashlib
import json
from typing import Any

import pytest

from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.messages import Result, decode_result, new_result, new_task
from agentbus_worker.settling import result_size
from agentbus_worker.settling.outbox import OutboxEntry


def result_of(text: str, *, task: dict[str, Json] | None = None, **more: Any) -> dict[str, Json]:
    whole = task or new_task(to="code", content="do it", task_type="t", task_id="t1").to_json()
    return new_result(whole, result_id="result-1", status="completed", result=text, **more).to_json()


def fit(whole: dict[str, Json], limit: int) -> dict[str, Json]:
    return result_size.fit(decode_result(encode(whole)), limit).to_json()


TEXTS = [
    pytest.param("plain text, " * 1000, id="plain"),
    pytest.param("\0" * 5000, id="control characters"),
    pytest.param('"' * 9000, id="quotes"),
    pytest.param("\\" * 9000, id="backslashes"),
    pytest.param("é" * 7000, id="two bytes"),
    pytest.param("\N{GRINNING FACE}" * 4000, id="four bytes"),
    pytest.param("\N{REPLACEMENT CHARACTER}" * 5000, id="what was not UTF-8"),
    pytest.param('a\0é\N{GRINNING FACE}\n"\\\x7f\N{LINE SEPARATOR}' * 900, id="all kinds"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_result_that_fits_exactly_is_not_changed(text: str):
    whole = result_of(text)
    assert encode(fit(whole, len(encode(whole)))) == encode(whole)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("missing", [1, 2, 3, 50, 5000])
def test_a_result_that_does_not_fit_keeps_as_much_of_the_beginning_as_there_is_room_for(text: str, missing: int):
    whole = result_of(text)
    limit = len(encode(whole)) - missing
    cut = fit(whole, limit)
    assert len(encode(cut)) <= limit
    assert len(encode(cut)) > limit - 100, "room was wasted"
    assert text.startswith(cut["result"])
    assert cut["output"] == {
        "bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest(), "truncated": True,
        "kept": len(cut["result"].encode()),
    }  # fmt: skip
    assert {**cut, "result": text, "output": None} == {**whole, "output": None}
    assert decode_result(encode(cut)).task_id == "t1"


def test_the_note_about_output_that_was_cut_before_is_kept():
    known = {"truncated": True, "bytes": 10**9, "kept": 1024, "sha256": "of the whole"}
    cut = fit(result_of("x" * 1024, extra={"output": known}), 800)
    assert cut["output"] == {**known, "kept": len(cut["result"])}
    assert 0 < len(cut["result"]) < 1024


BIG = "x" * 20_000
TASKS = {
    "a large text": {"payload": {"fmt": "text", "content": BIG}},
    "a large value": {"payload": {"fmt": "json", "content": [BIG]}},
    "a large field beside the content": {"payload": {"content": "x", "new": BIG}},
    "a large unknown field": {"new": [BIG]},
    "many unknown fields": {f"field{number}": number for number in range(3000)},
    "all at once": {"new": BIG, "payload": {"content": BIG}, "created_at": BIG, "from": BIG, "reply_to": BIG},
    # Of a message that is no valid task, whose sender is told so nevertheless.
    "an id that is none": {"id": "\0" * 20_000},
    "an address that is none": {"to": "é" * 20_000},
    "types that are none": {"task_type": [BIG], "type": {"a": BIG}, "payload": BIG, "id": "x"},
}


@pytest.mark.parametrize("changes", TASKS.values(), ids=TASKS.keys())
@pytest.mark.parametrize("text", ["", "short", "\0é" * 10_000], ids=["no text", "short text", "long text"])
@pytest.mark.parametrize("error", [None, "why" * 5, "\0" * 10_000], ids=["no error", "error", "endless error"])
@pytest.mark.parametrize("limit", [4096, 8192, 19_000])
def test_a_result_always_fits_and_can_be_read_however_large_the_task_is(
    changes: dict[str, Json], text: str, error: str | None, limit: int
):
    task: dict[str, Json] = {
        "id": "t1", "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": "t", **changes,
    }  # fmt: skip
    whole = result_of(text, task=task, error=error, extra={"worker": "w", "attempt": 1, "exit_code": 3})
    cut = fit(whole, limit)
    assert len(encode(cut)) <= limit
    read = decode_result(encode(cut))
    assert (read.id, read.status) == ("result-1", "completed")
    assert text.startswith(str(read.result))
    assert (cut["worker"], cut["attempt"], cut["exit_code"]) == ("w", 1, 3)
    if error is not None:
        assert read.error is not None
        assert error.startswith(read.error.removesuffix("…"))
        assert read.error
    if changes.get("id", "t1") == "t1":
        assert read.task_id == "t1"
    if "to" not in changes:
        assert read.agent == "code"
    if len(error or "") < 100:
        assert read.error == error


def test_the_embedded_task_is_shortened_before_a_short_result_and_says_so():
    task = {**new_task(to="code", content="x" * 20_000, task_type="t").to_json(), "small": 1}
    cut = fit(result_of("the answer", task=task), 4096)
    assert cut["result"] == "the answer"
    assert "output" not in cut, "nothing of the output was cut"
    assert {**cut["task"], "payload": None} == {**task, "payload": None}
    assert cut["task"]["payload"]["fmt"] == "text"
    assert "left out" in cut["task"]["payload"]["content"]


def test_the_task_object_itself_is_not_changed():
    task = new_task(to="code", content="x" * 20_000, task_type="t").to_json()
    whole = result_of("y" * 20_000, task=task)
    before = json.dumps(whole)
    fit(whole, 2048)
    assert json.dumps(whole) == before


def test_an_outcome_on_disk_has_the_fields_and_the_order_that_earlier_workers_wrote():
    message = result_of("done", error="why", extra={"worker": "w", "attempt": 1, "exit_code": 3})
    fields = {
        "agent": "code", "task_id": "t1", "nonce": "n", "status": "completed", "inbox": "main", "result": message,
        "written_at": 1.5, "revision": 7, "trace": {"traceparent": "00-1"},
    }  # fmt: skip
    written = OutboxEntry.model_validate(decode(encode(fields)))
    assert isinstance(written.result, Result)
    assert encode(written.to_json()) == encode(fields)
