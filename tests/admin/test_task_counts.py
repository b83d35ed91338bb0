"""Counts are of tasks, never of messages: a cancelled one counts nowhere; a member sees its own tasks that wait."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from mcp_types import TextResourceContents

from agentbus import Coordinator
from agentbus.admin.overview import OverviewReader
from agentbus.provision.nats_server import NatsServer
from support.harness import run_cli, worker, worker_toml
from support.installation import own_bus
from support.jobs import pid_from, publish
from support.mcp_harness import data_of, in_memory

pytestmark = pytest.mark.posix("runs a worker")


async def listed(server: NatsServer, *more: str) -> dict[str, Any]:
    ran = await run_cli("agent", "list", "--nats-url", server.url, *more)
    assert ran.code == 0, ran.err
    return {one["agent"]: one["tasks"] for one in map(json.loads, ran.out.splitlines())}


async def test_cancelled_tasks_of_an_agent_without_a_worker_are_counted_nowhere(
    server: NatsServer, coordinator: Coordinator
):
    ids = [(await coordinator.publish("code", "x", task_id=f"job-{number}")).id for number in range(60)]
    for task_id in ids[5:58]:
        await coordinator.task(task_id).cancel()
    assert await listed(server) == {"code": {"queued": 7, "running": 0}}
    overview = await OverviewReader(coordinator).read()
    assert overview.tasks_of("code").queued == 7
    assert [status.task_id for status in overview.queued] == [*ids[:5], *ids[58:]]


async def test_a_running_task_of_a_worker_that_is_gone_waits_and_a_cancelled_one_does_not_run(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, worker={"concurrency": 2})
    async with worker(config) as running:
        for name in ("one", "two"):
            await publish(coordinator, f"pid:{tmp_path}/{name} sleep:1000")
            await pid_from(tmp_path / name)
        assert await listed(server) == {"code": {"queued": 0, "running": 2}}
        running.popen.send_signal(signal.SIGINT)
        await running.until_said("stopping: 2 running")
        running.popen.send_signal(signal.SIGINT)
        assert await running.exit_code() == 0
    assert await listed(server) == {"code": {"queued": 2, "running": 0}}
    [first, *_] = (await coordinator.list_tasks()).tasks
    await coordinator.task(first.task_id).cancel()
    assert await listed(server) == {"code": {"queued": 1, "running": 0}}


async def test_a_member_sees_its_own_tasks_that_wait_and_those_of_others_not(tmp_path: Path):
    async with own_bus(tmp_path, coordinators={"alice": ("member", None)}) as own:
        async with own.coordinator("alice", "member") as alice, own.coordinator("main", "operator") as main:
            mine = (await alice.publish("code", "a")).id
            await alice.task((await alice.publish("code", "b")).id).cancel()
            await main.publish("code", "c")
            overview = await OverviewReader(alice).read()
            everything = await OverviewReader(main).read()
        assert [status.task_id for status in overview.queued] == [mine]
        assert overview.tasks_of("code").to_json() == {"queued": 1, "running": 0}
        assert [need.kind for need in overview.needs.named] == ["no_worker"]
        assert everything.tasks_of("code").queued == 2
        refused = [one for one in own.violations() if "$JS.API.STREAM.INFO." not in one]
        assert refused == [], "the sizes of streams are asked for once; nothing else is refused"


async def test_a_model_is_told_how_many_tasks_wait_and_not_how_many_messages(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    kept, cancelled = [await coordinator.publish("code", text) for text in ("a", "b")]
    await coordinator.task(cancelled.id).cancel()
    async with in_memory(server.url) as client:
        [agent] = data_of(await client.call_tool("list_agents", {}))["agents"]
        [content] = (await client.read_resource("agentbus://agents")).contents
    assert (agent["agent"], agent["waiting"]) == (kept.agent, 1)
    assert isinstance(content, TextResourceContents)
    assert json.loads(content.text)["agents"][0]["waiting"] == 1
