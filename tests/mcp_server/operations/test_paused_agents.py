"""A model that gives work to an agent whose workers are all paused is told so at once, with the reason."""

import json

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.mcp_harness import data_of, in_memory

PAUSED = {"code": "not_started", "reason": "cannot start 'agent'", "until": "2026-05-18T00:01:00+00:00"}
WORKER = {
    "agent": "code", "instance": "box-1", "host": "box", "pid": 1, "version": "1.0", "slots": 1, "free": 0,
    "started_at": "2026-05-18T00:00:00+00:00", "paused": PAUSED,
}  # fmt: skip


async def test_publishing_watching_and_listing_name_a_paused_agent(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    await coordinator.bus.store("$KV.AGENT_REGISTRY.code.box-1", json.dumps(WORKER).encode())
    wanted = "every worker of code is paused (not_started): cannot start 'agent'"
    async with in_memory(server.url) as client:
        call = {"to": "code", "content": "work", "task_type": "test"}
        published = data_of(await client.call_tool("publish_task", call))
        assert wanted in published["note"]
        call = {"task_ids": [published["published"][0]["task_id"]], "timeout_seconds": 0}
        watched = data_of(await client.call_tool("watch_results", call))
        assert wanted in json.dumps(watched)
        [agent] = data_of(await client.call_tool("list_agents", {}))["agents"]
        assert (agent["online"], agent["free_slots"]) == (True, 0)
        assert "paused until 2026-05-18T00:01:00 (not_started)" in agent["troubles"][0]


async def test_an_agent_that_an_operator_has_paused_is_said_to_be_paused_though_no_worker_is_alive(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    await coordinator.pause_agent("code", "the key is replaced")
    async with in_memory(server.url) as client:
        call = {"to": "code", "content": "work", "task_type": "test"}
        note = data_of(await client.call_tool("publish_task", call))["note"]
        assert "code is paused by main since" in note
        assert "the key is replaced" in note
        assert "is alive now" not in note
        [agent] = data_of(await client.call_tool("list_agents", {}))["agents"]
        assert agent["online"] is False
        assert agent["troubles"][0].startswith("paused by main since")
