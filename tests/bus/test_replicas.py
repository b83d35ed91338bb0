"""What a server says of the replicas of a stream: read, and waited for."""

import asyncio
from typing import Any

import pytest

from agentbus import Coordinator, connect
from agentbus.bus import jetstream, replicas
from agentbus.bus.jetstream_answers import read_stream_info
from agentbus.bus.replicas import Replicas, replicas_of, until_complete
from agentbus.bus.setup import set_up
from agentbus.errors import BusUnavailableError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import decode, encode
from agentbus.provision.nats_server import NatsServer
from support.altered_link import Change, altered_link, refused
from support.harness import BOUND_S, eventually

pytestmark = pytest.mark.posix("not tried on Windows")


def info(wanted: int, leader: str | None, *others: dict[str, Any], **more: Any) -> dict[str, Any]:
    cluster = {"name": "bus", **({"leader": leader} if leader else {}), "replicas": list(others), **more}
    return {"config": {"num_replicas": wanted}, "cluster": cluster}


def read_replicas(name: str, said: dict[str, Any]) -> Replicas:
    state = {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "first_ts": "", "last_ts": ""}
    found = read_stream_info({**said, "state": state}, "STREAM.INFO.S")
    return replicas_of(name, found.cluster, found.num_replicas)


CURRENT = {"name": "b", "current": True, "active": 1}
BEHIND = {"name": "c", "current": False, "lag": 7}
AWAY = {"name": "c", "current": False, "offline": True, "lag": 9}


@pytest.mark.parametrize(
    ("said", "text", "complete"),
    [
        (info(3, "a", CURRENT, {**CURRENT, "name": "c"}), "S has 3 of 3 replicas current", True),
        (info(3, "a", CURRENT, BEHIND), "S has 2 of 3 replicas current (c is 7 behind)", False),
        (info(3, "a", CURRENT, AWAY), "S has 2 of 3 replicas current (c is offline)", False),
        (info(3, "a"), "S has 1 of 3 replicas current", False),
        (info(3, None, CURRENT, AWAY), "S has no leader: nothing can be stored in it", False),
        (info(1, "a"), "S has 1 of 1 replicas current", True),
        ({"config": {"num_replicas": 1}, "cluster": {"leader": "a"}}, "S has 1 of 1 replicas current", True),
    ],
)
def test_replicas_are_counted_with_that_of_the_leader(said: dict[str, Any], text: str, complete: bool):
    found = read_replicas("S", said)
    assert str(found) == text
    assert found.complete is complete


def test_replicas_that_are_being_made_are_not_complete():
    made = info(3, "a", CURRENT, {**CURRENT, "name": "c"}, desired={"replicas": [{}, {}, {}]})
    assert not read_replicas("S", made).complete


def test_a_server_that_stands_alone_is_in_no_cluster():
    assert read_replicas("S", {"config": {"num_replicas": 1}, "cluster": None}).cluster == ""
    assert read_replicas("S", info(1, "a")).cluster == "bus"


# -- waiting for them -------------------------------------------------------------------------------------------


LEADERLESS = refused(10118, "JetStream cluster stream has no leader", code=503)
ASKED = "$JS.API.STREAM.INFO.AGENT_TASKS"


def in_a_cluster(*others: dict[str, Any]) -> Change:
    """What the server of a cluster would say of a stream that has a replica on each of these servers as well."""
    cluster = {"name": "three", "leader": "a", "replicas": list(others)}

    def change(data: bytes) -> bytes:
        told = decode(data)
        return encode({**told, "cluster": cluster, "config": {**told["config"], "num_replicas": 1 + len(others)}})

    return change


async def test_replicas_are_awaited_during_an_election_and_until_they_are_current(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jetstream, "_STARTING_S", 0.2)
    monkeypatch.setattr(replicas, "_PAUSE_S", 0.02)
    asked = 0

    def answer(data: bytes) -> bytes | None:
        nonlocal asked
        asked += 1
        return said(data)

    async def until_asked(more: int) -> None:
        enough = asked + more
        await eventually(lambda: asked > enough, "it asks again and again")

    said = LEADERLESS
    async with altered_link(server.url) as link, connect(link.url) as bus:
        link.changes[ASKED] = answer
        waiting = asyncio.create_task(until_complete(bus.bus, [subjects.TASKS_STREAM], (), timeout_s=BOUND_S))
        await until_asked(10)  # for longer than a server is given to start
        said = in_a_cluster(CURRENT, BEHIND)
        await until_asked(3)
        assert not waiting.done()
        said = in_a_cluster(CURRENT)
        assert await waiting == []


async def test_replicas_that_are_behind_when_the_time_is_over_are_named(server: NatsServer, coordinator: Coordinator):
    await set_up(coordinator.bus, ["code"])
    streams = [subjects.TASKS_STREAM, subjects.RESULTS_STREAM]
    async with altered_link(server.url) as link, connect(link.url) as bus:
        link.changes[ASKED] = in_a_cluster(CURRENT, AWAY)
        link.changes["$JS.API.STREAM.INFO.AGENT_RESULTS"] = in_a_cluster()
        for name in ("agent-code", "tasks-code"):
            link.changes[f"$JS.API.CONSUMER.INFO.AGENT_TASKS.{name}"] = in_a_cluster()
        left = await until_complete(bus.bus, streams, ["code"], timeout_s=0)
    assert [str(one) for one in left] == ["AGENT_TASKS has 2 of 3 replicas current (c is offline)"]


async def test_a_stream_without_a_leader_when_the_time_is_over_is_an_error(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jetstream, "_STARTING_S", 0.2)
    async with altered_link(server.url) as link, connect(link.url) as bus:
        link.changes[ASKED] = LEADERLESS
        with pytest.raises(BusUnavailableError, match="more than half of the servers of the cluster must be up"):
            await until_complete(bus.bus, [subjects.TASKS_STREAM], (), timeout_s=0)
