"""`agentbus doctor` reports which streams are missing, and how their replicas in a cluster are."""

from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.protocol.json_codec import decode, encode
from agentbus.protocol.work import input_names
from support.altered_link import AlteredLink, Change
from support.doctor import doctor_in_process

pytestmark = pytest.mark.posix("not tried on Windows")


def in_a_cluster(leader: str, *others: str) -> Change:
    """What the server of a cluster would say of a stream with a current replica on each of the other servers."""
    replicas: list[dict[str, Any]] = [{"name": name, "current": True} for name in others]

    def change(data: bytes) -> bytes:
        told = decode(data)
        cluster = {"name": "three", "leader": leader, "replicas": replicas}
        return encode({**told, "cluster": cluster, "config": {**told["config"], "num_replicas": 1 + len(others)}})

    return change


async def about_the_cluster(link: AlteredLink) -> list[dict[str, Any]]:
    return [finding for finding in await doctor_in_process(link.url) if finding["check"] == "cluster"]


async def test_a_cluster_whose_streams_have_all_their_replicas_is_reported_with_its_leaders(link: AlteredLink):
    link.changes["$JS.API.STREAM.INFO.AGENT_TASKS"] = in_a_cluster("a", "b", "c")
    link.changes["$JS.API.STREAM.INFO.AGENT_RESULTS"] = in_a_cluster("b", "a", "c")
    [finding] = await about_the_cluster(link)
    assert finding["verdict"] == "ok"
    assert finding["text"] == "2 streams have all their replicas, and all are current; led by a, b"


async def test_a_stream_with_one_replica_is_a_warning_and_one_without_a_leader_a_failure(link: AlteredLink):
    link.changes["$JS.API.STREAM.INFO.AGENT_TASKS"] = in_a_cluster("a")
    link.changes["$JS.API.STREAM.INFO.AGENT_RESULTS"] = in_a_cluster("", "b", "c")
    single, leaderless = await about_the_cluster(link)
    assert single["verdict"] == "warning"
    assert single["text"] == "AGENT_TASKS has one replica, on a: it is unavailable while that server is down"
    assert "--replicas 3" in single["fix"]
    assert leaderless["verdict"] == "failed"
    assert leaderless["text"].startswith("AGENT_RESULTS has no leader")
    assert "more than half of them" in leaderless["fix"]


async def test_an_agent_without_a_bucket_for_what_tasks_bring_is_a_warning_that_says_what_makes_it(
    link: AlteredLink, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code", "deep"])
    await coordinator.bus.api(f"STREAM.DELETE.{input_names.stream('deep')}")
    findings = await doctor_in_process(link.url, "administrator")
    about = {finding["text"]: finding for finding in findings if "OBJ_AGENT_INPUTS_" in finding["text"]}
    missing = "the bucket OBJ_AGENT_INPUTS_deep does not exist, so no task can bring files to its agent"
    assert set(about) == {missing, "the bucket OBJ_AGENT_INPUTS_code is as wanted"}
    assert (about[missing]["verdict"], about[missing]["fix"]) == ("warning", "agentbus setup, as the administrator")
