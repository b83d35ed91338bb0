"""An MCP task whose making or end is cut, at whatever point, is whole or is not there."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.notifications.bus_events import BusEvents
from agentbus_mcp.replies.models import Publication, PublishedTask
from agentbus_mcp.task_extension import records
from agentbus_mcp.task_extension.mcp_tasks import McpTasks
from agentbus_mcp.task_extension.stored_wait import StoredWait
from agentbus_mcp.task_extension.watched_tasks import WatchedTasks
from support.cut import Cutter

ways = pytest.mark.parametrize("times", [1, 2], ids=["cancelled once", "cancelled twice, then the connection closes"])


@asynccontextmanager
async def mcp_tasks(url: str) -> AsyncGenerator[tuple[McpTasks, Bus]]:
    """The MCP tasks of a server, over a connection of its own."""
    link = BusLink(connection_settings(NatsSection(url=url), agent="main", name="test"), "main")
    async with link.open():
        bus = (await link.coordinator()).bus
        yield McpTasks(link, BusEvents(link), {"publish_task": WatchedTasks()}), bus


def state_of(*task_ids: str) -> dict[str, Any]:
    published = [PublishedTask(agent="code", task_id=task_id, state="queued", known=False) for task_id in task_ids]
    return StoredWait.of_publication(Publication(published=published), inbox="main", elicits=False).to_state()


async def stored(bus: Coordinator) -> set[str]:
    """The ids of the MCP tasks that have a record."""
    info = await bus.bus.stream_info(subjects.STATE_STREAM, subjects_filter=subjects.mcp_tasks("main"))
    ids = [named[1] for subject in info.state.subjects or () if (named := subjects.parse_mcp_task(subject))]
    return {task_id for task_id in ids if await records.read(bus, task_id) is not None}


@ways
async def test_a_record_that_nobody_learns_of_is_removed_again(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: int
):
    cutter, learned = Cutter(monkeypatch), set[str]()

    async def create(tasks: McpTasks) -> None:
        learned.add((await tasks.create("publish_task", state_of("job"), ""))["taskId"])

    for at in count(1):
        async with mcp_tasks(server.url) as (tasks, bus):
            reached = await cutter.cut(bus, create(tasks), at=at, times=times)
        assert await stored(coordinator) <= learned
        if not reached:
            break
    assert await stored(coordinator) == learned
    assert learned


@ways
async def test_an_mcp_task_that_is_cancelled_cancels_all_its_tasks_or_none(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: int
):
    cutter, ended = Cutter(monkeypatch), False
    for at in count(1):
        ids = [f"job-{at}-{number}" for number in range(2)]
        for task_id in ids:
            await coordinator.publish("code", "hi", task_id=task_id)
        async with mcp_tasks(server.url) as (tasks, bus):
            made = await tasks.create("publish_task", state_of(*ids), "")
            reached = await cutter.cut(bus, tasks.cancel(made["taskId"]), at=at, times=times)
        record = await records.read(coordinator, made["taskId"])
        assert record is not None
        ended = record.record.end is not None
        states = {(await coordinator.task(task_id).status()).state for task_id in ids}
        assert states == ({"cancelled"} if ended else {"queued"})
        if not reached:
            break
    assert ended
