"""The backlog in the answer of `publish_task` includes the task that the call has published."""

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.mcp_harness import data_of, in_memory


async def test_each_publication_counts_itself_in_the_backlog(server: NatsServer, coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    async with in_memory(server.url) as client:
        waiting = [
            data_of(await client.call_tool("publish_task", {"to": "code", "content": "work", "task_type": "test"}))[
                "published"
            ][0]["waiting"]
            for _ in range(40)
        ]
    assert waiting == list(range(1, 41))


async def test_publishing_to_an_agent_without_a_consumer_counts_the_tasks_that_wait_for_it(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with in_memory(server.url) as client:
        call = {"to": "unprepared", "content": "work", "task_type": "test"}
        [published] = data_of(await client.call_tool("publish_task", call))["published"]
    assert (published["state"], published["waiting"]) == ("queued", 1)
