"""The fields of a task that goes on with a conversation: what is read of them, and what they change."""

from typing import Any

import pytest

from agentbus.errors import MessageError
from agentbus.protocol.conversations.continuation import continuation_of, is_session_id, needs_of, session_in
from agentbus.protocol.conversations.places import has_moved, place_id
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import queued
from agentbus.protocol.messages import Task, decode_task, new_task

PLACE = f"{'0' * 16}-{'1' * 8}"
PLAIN = new_task(to="code", content="x", task_type="test", task_id="job-1").to_json()

PLAIN_DIGEST = "de2c30f31472593c3353247f931e4d2b9845cc0c7df5fb8016593e567b3621d6"
"""That of versions before these fields: the SHA-256 of `["main","code","main","test","text","x"]`."""


def with_fields(**fields: Any) -> Task:
    return decode_task(encode({**PLAIN, **fields}))


def test_a_task_without_the_fields_has_the_digest_that_it_always_had() -> None:
    assert decode_task(encode({**PLAIN, "created_at": "2026-05-18T00:00:00+00:00"})).digest() == PLAIN_DIGEST
    assert with_fields(**{"continue": {"task": "job-0"}}).digest() == decode_task(encode(PLAIN)).digest()
    assert "needs" not in queued(with_fields(), "main").model_dump(exclude_none=True)


def test_what_a_task_goes_on_with_is_part_of_what_it_is_and_where_the_session_is_is_not() -> None:
    said = {"task": "job-0", "owner": "main"}
    one = with_fields(needs=["continue"], **{"continue": said})
    assert one.digest() != decode_task(encode(PLAIN)).digest()
    located = with_fields(needs=["continue"], **{"continue": {**said, "session": "s-1", "place": PLACE}})
    assert located.digest() == one.digest()
    others = [{**said, "task": "job-9"}, {**said, "owner": "alice"}, {**said, "fresh": True}, {**said, "wait_s": 5.0}]
    digests = {with_fields(needs=["continue"], **{"continue": other}).digest() for other in others}
    assert len(digests | {one.digest()}) == 5
    entry = queued(located, "main")
    assert entry.in_second_form
    assert entry.continues is not None
    assert (entry.continues.task, entry.continues.session, entry.continues.place) == ("job-0", None, None)


@pytest.mark.parametrize("needs", ["continue", {"continue": 1}, [1], [""], ["x" * 33], ["a"] * 17 + [""], None, [[]]])
def test_another_meaning_of_the_field_needs_is_none_of_ours(needs: Any) -> None:
    assert needs_of({"needs": needs}) == ()
    assert continuation_of({"needs": needs, "continue": 7}) is None


@pytest.mark.parametrize(
    "said",
    [
        None,
        7,
        {},
        {"task": ""},
        {"task": "a b"},
        {"task": "job-0", "owner": "agent-x"},
        {"task": "job-0", "owner": 7},
        {"task": "job-0", "session": "-rf"},
        {"task": "job-0", "session": "a\nb"},
        {"task": "job-0", "place": "elsewhere"},
        {"task": "job-0", "fresh": "yes"},
        {"task": "job-0", "wait_s": -1},
        {"task": "job-0", "wait_s": 1e300},
        {"task": "job-0", "wait_s": "5"},
    ],
)
def test_a_task_that_goes_on_with_nothing_that_can_be_named_is_not_valid(said: Any) -> None:
    with pytest.raises(MessageError, match="continue"):
        continuation_of({"needs": ["continue"], "continue": said})


@pytest.mark.parametrize("name", ["8c2f5f8e-3f0b-4c36-8e7c-0a2a8d3f1b11", "ses_5fT2", "01a2:b3", "x" * 200])
def test_ids_of_sessions_of_the_agents_are_taken(name: str) -> None:
    assert is_session_id(name)


@pytest.mark.parametrize(
    "name",
    ["", "-c", "--resume", "x" * 201, "a b", "a\tb", "a\x1b[2J", "ä", "$(id)", "a;b", "../x", "/etc", "~", None, 7],
)
def test_an_id_that_could_be_more_than_an_argument_is_refused(name: Any) -> None:
    assert not is_session_id(name)


def test_a_result_without_a_session_that_can_be_gone_on_with_has_none() -> None:
    run = {"format": "claude", "session": "s-1", "place": PLACE}
    assert session_in({"run": run}) == ("s-1", PLACE)
    for wrong in ({}, {"run": 7}, {"run": {**run, "session": "-c"}}, {"run": {**run, "place": "x"}}):
        assert session_in(wrong) == (None, None)


def test_a_place_changes_with_each_thing_that_it_is_made_of_and_tells_when_only_the_home_has() -> None:
    base = ("machine", "1000 me", "bus", "code", "/state")
    here = place_id(*base, {"HOME": "/home/me"})
    assert place_id(*base, {"HOME": "/home/me", "PATH": "/bin"}) == here
    others = [place_id("other", *base[1:], {"HOME": "/home/me"}), place_id(*base[:4], "other", {"HOME": "/home/me"})]
    moved = [place_id(*base, {"HOME": "/home/me", name: "/x"}) for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME")]
    moved.append(place_id(*base, {"HOME": "/other"}))
    assert len({here, *others, *moved}) == 6
    assert all(has_moved(other, here) for other in moved)
    assert not any(has_moved(other, here) for other in (*others, here))
