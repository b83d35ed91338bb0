"""Content that would start an agent for nothing, or arrive otherwise than it was written, is not published."""

from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.mcp_harness import error_of, in_memory


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "content: is empty"),
        (" \n", "content: is empty"),
        ('{"a": 1, "a": 2}', "an object has the key 'a' twice"),
        ("[0.12345678901234567890]", "the number 0.12345678901234567890 would be read as"),
    ],
)
async def test_a_task_that_would_not_arrive_as_it_was_written_is_refused(
    server: NatsServer, coordinator: Coordinator, content: Any, why: str
) -> None:
    call = {"to": ["code"], "content": content, "task_type": "test", "payload_fmt": "json"}
    async with in_memory(server.url) as client:
        assert why in error_of(await client.call_tool("publish_task", call))
    assert (await coordinator.list_tasks()).tasks == []
