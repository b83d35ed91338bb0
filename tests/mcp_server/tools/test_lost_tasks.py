"""The tools name tasks that the queue has lost, and say what to do."""

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.lost import lost_tasks
from agentbus.tasks.queue import queue_walk
from support.mcp_harness import both_eras, data_of, in_memory, text_of

pytestmark = both_eras
WHAT_TO_DO = "publish it again with its id"


async def test_a_lost_task_is_named_by_every_tool_that_looks_at_it(
    era: str, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_tasks, "_NAMED_AFTER_S", 0.0)
    monkeypatch.setattr(queue_walk, "_REMEMBERED_S", 0.0)
    for task_id in ("waits", "gone"):
        await coordinator.publish("code", "the work", task_id=task_id)
    await coordinator.bus.api("STREAM.MSG.DELETE.AGENT_TASKS", {"seq": 2})
    async with in_memory(server.url, era) as client:
        waits, gone = [await client.call_tool("get_task", {"task_id": task_id}) for task_id in ("waits", "gone")]
        watching = {"task_ids": ["waits", "gone"], "timeout_seconds": 0}
        watched = data_of(await client.call_tool("watch_results", watching))
        agents = data_of(await client.call_tool("list_agents", {}))
        published = {"to": ["code"], "content": "the work", "task_type": "task", "task_id": "gone"}
        again = data_of(await client.call_tool("publish_task", published))
        after = data_of(await client.call_tool("get_task", {"task_id": "gone"}))
        quiet = data_of(await client.call_tool("list_agents", {}))
    assert "lost" not in data_of(waits)
    assert WHAT_TO_DO in data_of(gone)["lost"]
    assert WHAT_TO_DO in text_of(gone)
    assert {task["task_id"]: "lost" in task for task in watched["pending"]} == {"waits": False, "gone": True}
    assert agents["note"].startswith("code/gone is lost")
    assert again["published"][0]["known"]
    assert ("lost" in after, "note" in quiet) == (False, False)


async def test_a_task_that_was_lost_for_long_is_told_to_have_failed(
    era: str, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_NAMED_AFTER_S", "LOST_AFTER_S"):
        monkeypatch.setattr(lost_tasks, name, 0.0)
    for task_id in ("first", "second"):
        await coordinator.publish("code", "the work", task_id=task_id)
    await coordinator.bus.api("STREAM.PURGE.AGENT_TASKS")
    async with in_memory(server.url, era) as client:
        watching = {"task_ids": ["first"], "timeout_seconds": 20}
        [result] = data_of(await client.call_tool("watch_results", watching))["results"]
        agents = data_of(await client.call_tool("list_agents", {}))
        second = data_of(await client.call_tool("get_task", {"task_id": "second"}))
    assert (result["status"], result["error"].startswith("expired: the queue lost")) == ("failed", True)
    assert agents["note"].startswith("code/second was lost")
    assert second["state"] == "failed"
