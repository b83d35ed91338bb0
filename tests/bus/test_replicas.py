"""What a server says of the copies of a stream, read."""

from typing import Any

import pytest

from agentbus.bus.jetstream_answers import read_stream_info
from agentbus.bus.replicas import Replicas, replicas_of

pytestmark = pytest.mark.posix("not tried on Windows")


def info(wanted: int, leader: str | None, *others: dict[str, Any], **more: Any) -> dict[str, Any]:
    cluster = {"name": "bus", **({"leader": leader} if leader else {}), "replicas": list(others), **more}
    return {"config": {"num_replicas": wanted}, "cluster": cluster}


def copies(name: str, said: dict[str, Any]) -> Replicas:
    state = {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "first_ts": "", "last_ts": ""}
    found = read_stream_info({**said, "state": state}, "STREAM.INFO.S")
    return replicas_of(name, found.cluster, found.num_replicas)


CURRENT = {"name": "b", "current": True, "active": 1}
BEHIND = {"name": "c", "current": False, "lag": 7}
AWAY = {"name": "c", "current": False, "offline": True, "lag": 9}


@pytest.mark.parametrize(
    ("said", "text", "complete"),
    [
        (info(3, "a", CURRENT, {**CURRENT, "name": "c"}), "S has 3 of 3 copies that are current", True),
        (info(3, "a", CURRENT, BEHIND), "S has 2 of 3 copies that are current (c is 7 behind)", False),
        (info(3, "a", CURRENT, AWAY), "S has 2 of 3 copies that are current (c is offline)", False),
        (info(3, "a"), "S has 1 of 3 copies that are current", False),
        (info(3, None, CURRENT, AWAY), "S has no leader: nothing can be stored in it", False),
        (info(1, "a"), "S has 1 of 1 copies that are current", True),
        ({"config": {"num_replicas": 1}, "cluster": {"leader": "a"}}, "S has 1 of 1 copies that are current", True),
    ],
)
def test_copies_are_counted_with_that_of_the_leader(said: dict[str, Any], text: str, complete: bool):
    found = copies("S", said)
    assert str(found) == text
    assert found.complete is complete


def test_copies_that_are_being_made_are_not_complete():
    made = info(3, "a", CURRENT, {**CURRENT, "name": "c"}, desired={"replicas": [{}, {}, {}]})
    assert not copies("S", made).complete


def test_a_server_that_stands_alone_is_in_no_cluster():
    assert copies("S", {"config": {"num_replicas": 1}, "cluster": None}).cluster == ""
    assert copies("S", info(1, "a")).cluster == "bus"
