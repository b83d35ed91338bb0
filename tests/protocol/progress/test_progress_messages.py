"""What a run tells: what a worker writes is read as it was written, and nothing else can harm a reader."""

from datetime import UTC, datetime
from typing import Any

import pytest

from agentbus.protocol.json_codec import encode
from agentbus.protocol.outcomes.run_report import Usage
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import (
    MAX_STORED_BYTES,
    MAX_TEXT_CHARS,
    ProgressMessage,
    RunEvent,
    Spent,
    read_progress,
)
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import TaskKey

NOW = datetime(2026, 11, 30, tzinfo=UTC)
RUN: dict[str, Any] = {"run": "r", "attempt": 1, "elapsed_s": 2.0, "events": []}


def stored(data: bytes, *, relayed: bool = False) -> StoredMessage:
    return StoredMessage("agent.code.progress.t", 1, NOW, {}, data, relayed=relayed)


def read(**fields: Any) -> ProgressMessage | None:
    return read_progress(stored(encode({**RUN, **fields})))


def test_what_is_written_is_read_with_the_time_at_which_it_was_stored():
    spent = Spent(Usage(10, 2, 3), 0.5, 4)
    events = (
        RunEvent("start", 0.1, "in /work", "sonnet"),
        RunEvent("tool_end", 1.0, "3 failed", "Bash", ok=False),
        RunEvent("text", 1.5, "oops", on_stderr=True),
        RunEvent("usage", 2.0, spent=spent),
    )
    message = ProgressMessage("r", 2, 2.0, events, before=7, left_out=3, bytes_left_out=9, spent=spent, ended=True)
    found = read_progress(stored(encode(message.to_json())))
    assert found is not None
    assert [(one.at, one.attempt) for one in found.events] == [(NOW, 2)] * 4
    assert [one.in_words for one in found.events] == [
        "started sonnet in /work",
        "Bash failed: 3 failed",
        "oops",
        "10 tokens in, 3 out, $0.50",
    ]
    assert (found.before, found.left_out, found.bytes_left_out, found.spent, found.ended) == (7, 3, 9, spent, True)
    assert found.in_words == "oops (after 2 s, 10 tokens in, 3 out, $0.50)"
    assert found.summary()["last"] == "oops"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"[]",
        b'{"run":"r","attempt":1}',
        b'{"run":7,"attempt":1,"events":[]}',
        b'{"run":"r","attempt":-1,"events":[]}',
        b'{"run":"r","attempt":1,"events":{}}',
        b'{"run":"r","attempt":1,"events":[],"x":"' + b"y" * MAX_STORED_BYTES + b'"}',
    ],
)
def test_what_is_none_of_ours_is_passed_over(data: bytes):
    assert read_progress(stored(data)) is None


def test_a_copy_that_the_server_was_made_to_store_is_passed_over():
    assert read_progress(stored(encode(RUN))) is not None
    assert read_progress(stored(encode(RUN), relayed=True)) is None


def test_each_field_of_another_type_or_beyond_its_bound_is_taken_as_not_there():
    hostile = {"kind": "text", "t": 1e300, "text": "x" * 4_000, "name": ["no"], "ok": "yes", "cost_usd": "1e9"}
    found = read(events=[hostile, {"kind": "dropped"}, {"kind": []}, 7, None], before=-1, left_out=2**60, spent=[1])
    assert found is not None
    [event] = found.events
    assert (event.elapsed_s, len(event.text), event.name, event.ok) == (0.0, MAX_TEXT_CHARS, "", None)
    assert (found.before, found.left_out, found.spent) == (0, 0, Spent())


def test_the_subject_holds_the_owner_of_a_task_and_that_of_a_member_covers_its_own_alone():
    assert names.of_task(TaskKey("code", "a.b")) == "agent.code.progress.a.b"
    assert names.of_task(TaskKey("code", "t", "alice")) == "agent.code.progress.~alice.t"
    assert names.of_agent("code", "alice") == "agent.code.progress.~alice.>"
    assert names.agent_of_stream(names.stream("code")) == "code"
    assert names.agent_of_stream("AGENT_PROGRESS_no.id") is names.agent_of_stream("AGENT_TASKS") is None
