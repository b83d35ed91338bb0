"""Where a task runs that goes on with a conversation, decided without I/O."""

from datetime import UTC, datetime
from typing import Any

import pytest

from agentbus.protocol.conversations.continuation import Continuation
from agentbus.protocol.ledger_entry import Entry, NoEntry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.conversations.routing import (
    Elsewhere,
    Gone,
    Here,
    NotYet,
    earlier_of,
    handing_back_s,
    whereabouts,
)

HERE, MOVED, OTHER = f"{'a' * 16}-{'b' * 8}", f"{'a' * 16}-{'c' * 8}", f"{'d' * 16}-{'b' * 8}"


def earlier(state: str = "completed", **run: Any) -> Record:
    result = {"id": "r", "type": "task.result", "status": state, "task": {}, "run": {"format": "claude", **run}}
    fields = {"state": state, "digest": "", "sender": "main", "inbox": "main", "task_type": "test"}
    entry = Entry.model_validate({**fields, "result": result if state == "completed" else None})
    return Record(TaskKey("code", "first"), entry, 1, datetime.now(UTC))


@pytest.mark.parametrize(
    ("place", "expected"),
    [(HERE, Here("s")), (OTHER, Elsewhere(OTHER)), (MOVED, Elsewhere(MOVED, moved=True))],
)
def test_a_task_runs_where_its_session_is_whether_it_says_so_or_the_earlier_task_does(
    place: str, expected: Any
) -> None:
    named = Continuation(task="first", session="s", place=place)
    assert earlier_of(named, "code") is None
    assert whereabouts(named, "main", HERE, None) == expected
    unnamed = Continuation(task="first")
    assert earlier_of(unnamed, "code") == TaskKey("code", "first")
    assert whereabouts(unnamed, "main", HERE, earlier(session="s", place=place)) == expected


@pytest.mark.parametrize("state", ["queued", "working"])
def test_an_earlier_task_without_a_result_is_waited_for(state: str) -> None:
    assert whereabouts(Continuation(task="first"), "main", HERE, earlier(state)) == NotYet()


@pytest.mark.parametrize("found", [NoEntry(), earlier(), earlier(session="-c", place=HERE), earlier(session="s")])
def test_an_earlier_task_that_has_left_no_session_is_gone(found: Any) -> None:
    assert isinstance(whereabouts(Continuation(task="first"), "main", HERE, found), Gone)


@pytest.mark.parametrize(
    ("publisher", "owner", "allowed"),
    [("main", "alice", True), ("alice", "alice", True), ("alice", "main", False), ("bob", "alice", False)],
)
def test_only_the_owner_of_a_conversation_and_main_go_on_with_it(publisher: str, owner: str, allowed: bool) -> None:
    named = Continuation(task="first", owner=owner, session="s", place=HERE)
    found = whereabouts(named, publisher, HERE, None)
    assert found == Here("s") if allowed else isinstance(found, Gone) and found.code == "rejected"


def test_a_delivery_goes_to_the_next_workers_at_once_and_later_comes_again_within_five_seconds() -> None:
    assert all(handing_back_s(count) <= 0.2 for count in range(1, 9))
    later = [handing_back_s(count) for count in (9, 100, 100_000)] + [handing_back_s(1, known=False)]
    assert all(1 <= delay_s <= 5 for delay_s in later)
