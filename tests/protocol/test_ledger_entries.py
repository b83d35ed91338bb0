"""Ledger entries without a server: what a stored message means, and how an entry changes."""

from datetime import UTC, datetime
from typing import Any

import pytest

from agentbus.errors import CorruptEntryError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.ledger_entry import (
    TERMINAL,
    Claim,
    Entry,
    NoEntry,
    Record,
    claimed,
    queued,
    read_entry,
    renewed,
    settled,
)
from agentbus.protocol.messages import new_result, new_task
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import parse_time

TIME = datetime(2026, 5, 18, tzinfo=UTC)
CLAIM = Claim(worker="w", nonce="n", lease_s=30, since="2026-05-18T00:00:00+00:00")
ENTRY: dict[str, Json] = {
    "state": "working",
    "digest": "d",
    "sender": "agent-main",
    "inbox": "main",
    "task_type": "t",
    "attempt": 2,
    "claim": {"worker": "w", "nonce": "n", "renewals": 4, "lease_s": 30.0, "since": "2026-05-18T00:00:00+00:00"},
}
RESULT: dict[str, Json] = {"id": "r", "type": "task.result", "status": "completed", "task": {}}


def stored(value: Any, *, subject: str = "$KV.AGENT_STATE.code.t.1", **headers: str) -> StoredMessage:
    data = value if isinstance(value, bytes) else encode(value)
    return StoredMessage(subject, 42, TIME, {name.replace("_", "-"): text for name, text in headers.items()}, data)


def read(value: Any, **changes: Any) -> Record:
    found = read_entry(stored(value, **changes))
    assert isinstance(found, Record)
    return found


def test_an_entry_is_read_with_its_key_its_revision_and_the_time_of_the_server():
    found = read(ENTRY, Bus_State="working")
    assert (found.agent, found.task_id, found.revision, found.changed_at) == ("code", "t.1", 42, TIME)
    assert found.headers == {"Bus-State": "working"}
    assert found.entry.model_dump(exclude_none=True) == ENTRY
    assert found.entry.claim is not None
    assert (found.entry.claim.nonce, found.entry.claim.renewals) == ("n", 4)


def test_fields_of_a_newer_writer_are_kept_in_an_entry():
    assert read({**ENTRY, "new_field": [1]}).entry.model_dump(exclude_none=True) == {**ENTRY, "new_field": [1]}


def test_the_least_entry_has_defaults_for_the_rest():
    least = {key: ENTRY[key] for key in ("digest", "sender", "inbox", "task_type")}
    entry = read({**least, "state": "queued"}).entry
    assert (entry.attempt, entry.claim, entry.cancel, entry.result, entry.created_at) == (0, None, None, None, None)


@pytest.mark.parametrize("operation", ["DEL", "PURGE"])
@pytest.mark.parametrize("data", [b"", b"anything"])
def test_a_removed_entry_is_a_vacant_key_at_its_revision(operation: str, data: bytes):
    assert read_entry(stored(data, KV_Operation=operation)) == NoEntry(42)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "entry: "),
        (b"null", "entry: "),
        (b'"text"', "entry: "),
        (b"{}", "state: is missing; digest: is missing; sender: is missing; inbox: is missing; task_type: is missing"),
        ({**ENTRY, "state": "paused"}, "state: "),
        ({**ENTRY, "state": None}, "state: "),
        ({**ENTRY, "attempt": "two"}, "attempt: "),
        ({**ENTRY, "attempt": -1}, "attempt: "),
        ({**ENTRY, "attempt": 10**30}, "attempt: "),
        ({**ENTRY, "claim": {"worker": "w"}}, r"claim\.nonce: is missing; claim\.lease_s: is missing"),
        ({**ENTRY, "claim": "w"}, "claim: "),
        ({**ENTRY, "claim": {**CLAIM.model_dump(), "lease_s": 1e300}}, r"claim\.lease_s: "),
        ({**ENTRY, "claim": {**CLAIM.model_dump(), "nonce": "two parts"}}, r"claim\.nonce: "),
        ({**ENTRY, "retry_after_s": 1e300}, "retry_after_s: "),
        ({**ENTRY, "retry_after_s": -1}, "retry_after_s: "),
        ({**ENTRY, "inbox": " "}, "inbox: is not an agent id"),
        ({**ENTRY, "inbox": "main\r\nX: y"}, "inbox: is not an agent id"),
        ({**ENTRY, "inbox": "*"}, "inbox: is not an agent id"),
        ({**ENTRY, "sender": ""}, "sender: "),
        ({**ENTRY, "sender": "x" * 257}, "sender: "),
        ({**ENTRY, "task_type": "x" * 129}, "task_type: "),
        ({**ENTRY, "publication": "*"}, "publication: "),
        ({**ENTRY, "last_failure": "x" * 70_000}, "last_failure: "),
        ({**ENTRY, "result": "text"}, "result: "),
        ({**ENTRY, "result": RESULT}, "a result belongs to a final state"),
        ({**ENTRY, "state": "completed"}, "a result belongs to a final state"),
        ({**ENTRY, "state": "completed", "result": {}}, "result: id: is missing"),
        ({**ENTRY, "state": "failed", "result": RESULT}, "another status"),
        ({**ENTRY, "state": "completed", "result": {**RESULT, "id": ""}}, "result: id: "),
        ({**ENTRY, "state": "completed", "result": {**RESULT, "id": "x" * 100_000}}, "result: id: "),
        ({**ENTRY, "state": "completed", "result": {**RESULT, "id": "a b"}}, "result: id: "),
        ({**ENTRY, "state": "completed", "result": {**RESULT, "id": "a\n"}}, "result: id: "),
        ({**ENTRY, "state": "completed", "result": {**RESULT, "error": 7}}, "result: error: "),
        ({**ENTRY, "cancel": True}, "cancel: "),
    ],
)
def test_an_entry_that_cannot_be_read_is_an_error_that_names_the_task_and_not_a_state(data: Any, reason: str):
    with pytest.raises(CorruptEntryError, match=rf"the ledger entry of t\.1 \(agent code\) cannot be read: .*{reason}"):
        read_entry(stored(data))


def test_an_unreadable_entry_is_not_quoted():
    with pytest.raises(CorruptEntryError) as caught:
        read_entry(stored({**ENTRY, "attempt": "hunter2"}))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(CorruptEntryError) as caught:
        read_entry(stored({**ENTRY, "state": "completed", "result": {**RESULT, "error": ["hunter2"]}}))
    assert "hunter2" not in str(caught.value)
    assert (caught.value.revision, caught.value.changed_at) == (42, stored({}).time)


@pytest.mark.parametrize(
    "subject", ["$KV.AGENT_STATE.code", "$KV.OTHER.code.t", "agent.code.tasks", "$KV.AGENT_STATE.*.t"]
)
def test_a_message_of_another_subject_is_no_entry(subject: str):
    with pytest.raises(CorruptEntryError, match="is not a ledger key"):
        read_entry(stored(ENTRY, subject=subject))


@pytest.mark.parametrize("operation", ["PUT", ""])
def test_any_other_operation_is_an_ordinary_entry(operation: str):
    assert read(ENTRY, KV_Operation=operation).entry.state == "working"


# -- how an entry changes ---------------------------------------------------------------------------------------


def test_an_entry_goes_from_queued_over_claimed_and_renewed_to_settled_and_keeps_what_it_knows():
    task = new_task(to="code", content="x", task_type="t", reply_to="doc")
    first = queued(task, task.inbox("main"))
    assert (first.state, first.digest, first.sender, first.inbox, first.task_type, first.created_at) == (
        "queued", task.digest(), "agent-main", "doc", "t", task.created_at,
    )  # fmt: skip
    assert (first.terminal, first.result_id, first.attempt) == (False, "", 0)

    second = claimed(first, CLAIM, 1)
    assert second == first.model_copy(update={"state": "working", "claim": CLAIM, "attempt": 1})

    third = renewed(renewed(second))
    assert third.claim == CLAIM.model_copy(update={"renewals": 2})
    assert second.claim == CLAIM, "an entry never changes in place"

    result = new_result(task.to_json(), result_id="result-1", status="completed")
    last = settled(third, result)
    assert (last.state, last.terminal, last.result_id, last.result) == ("completed", True, "result-1", result.to_json())
    assert last.settled_at is not None
    assert (last.claim, last.attempt, last.digest) == (third.claim, 1, first.digest)
    assert read(last.model_dump(exclude_none=True)).entry == last


def test_only_a_claimed_entry_can_be_renewed():
    task = new_task(to="code", content="x", task_type="t")
    with pytest.raises(ValueError, match="only a claimed entry"):
        renewed(queued(task, "main"))


@pytest.mark.parametrize("state", ["queued", "working", "completed", "failed", "needs_approval", "cancelled"])
def test_a_task_is_settled_in_four_of_its_states(state: Any):
    result = {"result": {**RESULT, "status": state}} if state in TERMINAL else {}
    entry = Entry.model_validate({**ENTRY, "state": state, **result})
    assert entry.terminal == (state in TERMINAL) == (state not in ("queued", "working"))


def test_an_entry_without_a_result_has_no_id_of_one():
    assert Entry.model_validate({**ENTRY, "result": None}).result_id == ""


@pytest.mark.parametrize("task_id", ["x" * 128, "a.b.c"])
def test_the_key_of_any_valid_task_is_read_back(task_id: str):
    found = read(ENTRY, subject=subjects.state(TaskKey("y" * 64, task_id)))
    assert (found.agent, found.task_id) == ("y" * 64, task_id)


def test_an_entry_is_written_without_the_fields_that_are_not_set():
    task = new_task(to="code", content="x", task_type="t")
    assert set(decode(encode(queued(task, "main").model_dump(exclude_none=True)))) == {
        "state", "digest", "sender", "inbox", "task_type", "created_at", "attempt", "about",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-05-18T01:02:03Z", datetime(2026, 5, 18, 1, 2, 3, tzinfo=UTC)),
        ("2026-05-18T01:02:03.5Z", datetime(2026, 5, 18, 1, 2, 3, 500000, tzinfo=UTC)),
        ("2026-05-18T01:02:03.123456789Z", datetime(2026, 5, 18, 1, 2, 3, 123456, tzinfo=UTC)),
        ("2026-05-18T03:02:03.000000001+02:00", datetime(2026, 5, 18, 1, 2, 3, tzinfo=UTC)),
    ],
)
def test_the_time_stamps_of_a_server_are_read_to_the_microsecond(text: str, time: datetime):
    assert parse_time(text) == time
