"""Groups over MCP: published under a name, listed and awaited by it, however many tasks there are."""

from typing import Any

import anyio

from agentbus import Coordinator
from agentbus.many_tasks import NewTask
from agentbus.provision.nats_server import NatsServer
from support.mcp_harness import data_of, error_of, in_memory, settle, text_of


async def settle_until(coordinator: Coordinator, stop: anyio.Event) -> None:
    """Settle one task after the other: some before the wait begins, and one while it goes on."""
    for number in range(40, 50):
        await settle(coordinator, f"n{number}", "late")
        with anyio.move_on_after(0.5):
            await stop.wait()
            return


async def test_a_group_is_published_listed_and_awaited_by_its_name(
    server: NatsServer, coordinator: Coordinator
) -> None:
    call = {"to": ["code"], "content": "x", "task_type": "t", "group": "job", "task_id": "n0"}
    async with in_memory(server.url) as client:
        data_of(await client.call_tool("publish_task", call))
        many = [NewTask("code", f"part {number}", task_id=f"n{number}", group="job") for number in range(1, 50)]
        async for _ in coordinator.publish_many(many):
            pass
        await coordinator.publish("code", "apart", task_id="apart")
        for number in range(40):
            await settle(coordinator, f"n{number}", f"result {number}")
        listed = data_of(await client.call_tool("list_tasks", {"group": "job", "limit": 50}))
        assert len(listed["tasks"]) == 50
        assert {(one["group"], one["about"][:4]) for one in listed["tasks"]} <= {("job", "x"), ("job", "part")}
        looked = data_of(await client.call_tool("watch_results", {"group": "job", "timeout_seconds": 0}))
        assert (len(looked["results"]), len(looked["pending"])) == (32, 10)
        assert "the group has 40 completed, 10 queued" in looked["note"]
        assert looked["next"] == {"tool": "watch_results", "arguments": {"group": "job"}}
        first: dict[str, Any] = {}
        async with anyio.create_task_group() as group:
            group.start_soon(settle_until, coordinator, stop := anyio.Event())
            first = data_of(await client.call_tool("watch_results", {"group": "job", "until": "any"}))
            stop.set()
        assert first["results"][0]["task_id"] in {f"n{number}" for number in range(40, 50)}, "the newest comes first"
        unknown = await client.call_tool("watch_results", {"group": "nothing"})
        assert "the bus knows no task of the group nothing" in error_of(unknown)
        wrong = await client.call_tool("publish_task", {**call, "group": "a/b"})
        assert "no name of a group" in text_of(wrong)
