"""What publishers and readers of lists are told of follow-ups that wait, and how many may."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.errors import CannotContinueError
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import decode_task, new_task
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks import follow_ups
from agentbus.tasks.publish import publish
from support.conversing import conversing_worker, done, home
from support.harness import run_cli, worker
from support.mcp_harness import data_of, in_memory

NO_WORKER = "no worker is alive where the session of first is"


@pytest.mark.long
async def test_who_publishes_is_told_that_no_worker_is_alive_at_the_place_and_lists_show_what_it_waits_for(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    at = ("--nats-url", server.url)
    async with worker(conversing_worker(tmp_path, server.url), env=home(tmp_path)):
        first = await coordinator.publish("code", "remember heron", task_id="first")
        await done(first)
        alive = await first.follow_up("recall", task_id="alive")
        assert alive.note is None
        await done(alive)
    told = await first.follow_up("recall", task_id="of-python")
    assert told.note is not None
    assert NO_WORKER in told.note
    assert "then it fails with session_gone" in told.note
    assert "a new session gets the earlier task" in str((await first.follow_up("recall", fresh=True)).note)
    ran = await run_cli("task", "publish", "--continue", "first", "--task-id", "of-cli", "recall", *at)
    assert NO_WORKER in ran.err
    async with in_memory(server.url) as client:
        job: dict[str, Any] = {"to": ["code"], "content": "recall", "task_type": "recall", "task_id": "of-mcp"}
        [answer] = data_of(await client.call_tool("publish_task", {**job, "continue_task": "first"}))["published"]
        assert NO_WORKER in answer["note"]
        listed = data_of(await client.call_tool("list_tasks", {}))["tasks"]
        waiting = {one["task_id"]: one.get("waits_for") for one in listed}
        assert (waiting["of-mcp"], waiting["first"], waiting["alive"]) == ("place", None, None)
        assert data_of(await client.call_tool("get_task", {"task_id": "of-mcp"}))["waits_for"] == "place"
    listed = await run_cli("task", "list", "--state", "queued", "--limit", "1", *at)
    assert json.loads(listed.out)["waits_for"] == "place"
    assert (await told.status()).state_in_words == "queued (waits for its place)"


async def test_no_more_follow_ups_than_an_agent_can_have_waiting_are_published(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_ups, "MAX_WAITING", 3)
    alice = Coordinator(coordinator.bus, "alice")
    first, of_alice = await coordinator.publish("code", "x"), await alice.publish("code", "x")
    for _ in range(3):
        await alice.publish("code", "new tasks of hers are none")
    for _ in range(2):
        await of_alice.follow_up("y")
    waiting = await first.follow_up("y")
    with pytest.raises(CannotContinueError, match=r"too many follow-ups wait for the agent code \(3, at most 3\)"):
        await of_alice.follow_up("y")
    with_files = new_task(to="code", content="x", task_type="test").to_json() | {"needs": ["files"]}
    await publish(coordinator.bus, decode_task(encode(with_files)), "main")  # is none either
    with pytest.raises(CannotContinueError, match=r"\(3, at most 3\)"):
        await first.follow_up("y")
    again = await first.follow_up("y", task_id=waiting.id)
    assert again.known, "what is published again was accepted before"
    await (await coordinator.publish("doc", "x")).follow_up("y")


@pytest.mark.long
async def test_no_follow_ups_are_published_while_the_agent_has_too_many_deliveries_under_way(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker(conversing_worker(tmp_path, server.url), env=home(tmp_path)):
        first = await coordinator.publish("code", "remember heron")
        await done(first)
    monkeypatch.setattr(follow_ups, "_MOST_DELIVERED", 0)
    with pytest.raises(CannotContinueError, match=r"too many tasks of the agent code are under way .* \(0\)"):
        await first.follow_up("y")
