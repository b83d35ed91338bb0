"""A result that a client has got as that of an MCP task is noted as read: the monitor of its session tells nothing."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from agentbus import Coordinator
from agentbus.notify.session_tasks import FOLDER
from agentbus.provision.nats_server import NatsServer
from support.mcp_harness import over_stdio, settle
from support.mcp_task_client import TaskClient, knowing_tasks


@asynccontextmanager
async def tasks_on(server: NatsServer, tmp_path: Path) -> AsyncGenerator[TaskClient]:
    """A client of a server process that notes what it publishes below a home folder of its own."""
    env = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    connect = partial(over_stdio, tmp_path / "log", "auto", "--nats-url", server.url, env=env)
    async with knowing_tasks(connect) as client:
        yield client


def noted(home: Path) -> dict[str, bool]:
    """The tasks of the session, and whether the model has read their results."""
    files = list((home / FOLDER.removeprefix("~/")).glob("*.json"))
    tasks = [task for file in files for task in json.loads(file.read_text(encoding="utf-8"))["tasks"]]
    return {task["id"]: task.get("seen", False) for task in tasks}


async def test_the_result_of_a_task_that_was_got_is_noted_as_read(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
):
    async with tasks_on(server, tmp_path) as client:
        asked = {"to": "code", "content": "work", "task_id": "job-1", "task_type": "test", "watch": True}
        task = await client.call("publish_task", asked)
        assert task["resultType"] == "task"
        assert (await client.get(task["taskId"]))["status"] == "working"
        assert noted(tmp_path) == {"job-1": False}
        await settle(coordinator, "job-1")
        got = await client.until(task["taskId"], "completed")
        assert got["result"]["structuredContent"]["results"][0]["task_id"] == "job-1"
        assert noted(tmp_path) == {"job-1": True}
