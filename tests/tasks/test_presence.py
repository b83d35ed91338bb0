"""Who is alive: what a worker shows of itself, and that it is gone when it is gone."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, __version__
from agentbus.admin.overview import OverviewReader
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.presence import present
from agentbus_mcp.replies.agents import agent_view
from support.harness import BOUND_S, eventually, run_cli, worker, worker_toml
from support.jobs import agent_keys, outcome, publish, settled
from support.terminal import shown_on_terminal

pytestmark = pytest.mark.posix("shows what workers say of themselves")


async def agents(url: str, *args: str) -> list[dict[str, Any]]:
    ran = await run_cli("agent", "list", "--nats-url", url, *args)
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


async def seen(bus: Coordinator, count: int) -> None:
    async def there() -> bool:
        return len(await bus.agents()) == count

    await eventually(there, f"{count} workers are seen")


async def test_the_list_has_every_agent_with_its_workers_and_its_backlog(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, worker={"concurrency": 3})
    agent_keys(config, description="Writes and reviews code.")
    async with (
        worker(config) as first,
        worker(config) as second,
        worker(worker_toml(tmp_path, server.url, agent="doc")),
    ):
        await seen(coordinator, 3)
        code, doc = await agents(server.url)
        assert (code["agent"], code["online"], code["waiting"], code["unacknowledged"]) == ("code", True, 0, 0)
        assert (doc["agent"], len(doc["workers"])) == ("doc", 1)
        assert [one["pid"] for one in sorted(code["workers"], key=lambda one: one["pid"])] == sorted(
            [first.pid, second.pid]
        )
        for one in code["workers"]:
            assert (one["slots"], one["free"], one["running"]) == (3, 3, [])
            assert (one["version"], one["description"]) == (__version__, "Writes and reviews code.")
            assert one["seen_at"] >= one["started_at"]
        [alone] = await agents(server.url, "--agent", "doc")
        for one in (*alone["workers"], *doc["workers"]):
            del one["seen_at"]  # a heartbeat may come in between
        assert alone == doc
    left = await agents(server.url)
    assert [(one["agent"], one["online"], one["workers"]) for one in left] == [("code", False, []), ("doc", False, [])]


async def test_free_slots_running_tasks_and_the_backlog_follow_the_work(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url, worker={"concurrency": 2})):
        running = [await publish(coordinator, f"touch:{tmp_path}/ran sleep:1000") for _ in range(2)]
        waiting = await publish(coordinator, "say:next")

        async def shown() -> bool:
            [one] = await present(coordinator.bus, "code")
            return (one.free, set(one.running)) == (0, set(running))

        await eventually(shown, "both slots are taken")
        [code] = await agents(server.url)
        assert (code["waiting"], code["unacknowledged"]) == (1, 2)
        for task_id in running:
            await coordinator.task(task_id).cancel()
        await settled(coordinator, waiting)

        async def idle() -> bool:
            [one] = await present(coordinator.bus, "code")
            return (one.free, one.running) == (2, ())

        await eventually(idle, "both slots are free")


async def test_every_worker_sends_heartbeats_that_say_what_the_registry_says(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def hear(message: Any) -> None:
        heard.put_nowait({"subject": message.subject, **json.loads(message.data)})

    await coordinator.bus.subscribe("agent.*.heartbeat", hear)
    async with worker(worker_toml(tmp_path, server.url)):
        first = await asyncio.wait_for(heard.get(), BOUND_S)
        await outcome(coordinator, "say:x")  # a change of the free slots is told before the next 30 s are over
        second = await asyncio.wait_for(heard.get(), 25)
        [one] = await present(coordinator.bus, "code")
    assert first["subject"] == "agent.code.heartbeat"
    assert (first["instance"], second["instance"]) == (one.instance, one.instance)
    assert (first["slots"], first["free"]) == (1, 1)


async def test_a_worker_that_stops_is_gone_at_once_and_one_that_is_killed_when_its_key_expires(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = (await coordinator.bus.api("STREAM.INFO.KV_AGENT_REGISTRY"))["config"]
    assert config["max_age"] == 90 * 10**9
    await coordinator.bus.api(
        "STREAM.UPDATE.KV_AGENT_REGISTRY", {**config, "max_age": 10**9, "duplicate_window": 10**9}
    )
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await seen(coordinator, 1)
        child.kill()
    await seen(coordinator, 0)
    await coordinator.bus.api("STREAM.UPDATE.KV_AGENT_REGISTRY", config)
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await seen(coordinator, 1)
        child.terminate()
        assert await child.exit_code() == 0
        assert await coordinator.agents() == []


@pytest.mark.parametrize("alive", [False, True])
async def test_publishing_says_when_no_worker_is_alive_and_that_the_task_waits(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, alive: bool
):
    args = ("task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "test", "say:done")
    if alive:
        async with worker(worker_toml(tmp_path, server.url)):
            await seen(coordinator, 1)
            ran = await run_cli(*args)
            assert (ran.code, ran.err) == (0, "")
            await settled(coordinator, json.loads(ran.out)["id"])
    else:
        ran = await run_cli(*args)
        assert ran.code == 0
        assert ran.err == ("no worker of the agent code is alive now; the task waits for one, for up to 7 days\n")
        async with worker(worker_toml(tmp_path, server.url)):
            assert (await settled(coordinator, json.loads(ran.out)["id"])).state == "completed"


async def test_what_a_worker_shows_holds_no_prompt_no_path_and_no_password(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        task_id = await publish(coordinator, "say:hush-hush sleep:1000")
        await seen(coordinator, 1)

        async def busy() -> bool:
            [one] = await present(coordinator.bus)
            return one.free == 0

        await eventually(busy, "it runs")
        shown = json.dumps(await agents(server.url))
        await coordinator.task(task_id).cancel()
        await settled(coordinator, task_id)
    assert "hush-hush" not in shown
    assert str(tmp_path) not in shown


# -- what others write into the registry ------------------------------------------------------------------------

PRESENCE: dict[str, Any] = {
    "agent": "code", "instance": "box-1", "host": "box", "pid": 1, "version": "1.0", "slots": 1, "free": 1,
    "started_at": "2026-05-18T00:00:00+00:00",
}  # fmt: skip


async def register(bus: Coordinator, key_agent: str, **changes: Any) -> None:
    data = json.dumps({**PRESENCE, **changes}).encode()
    await bus.bus.store(f"$KV.AGENT_REGISTRY.{key_agent}.{changes.get('instance', PRESENCE['instance'])}", data)


async def test_no_agent_can_take_the_place_of_a_worker_of_another_one(coordinator: Coordinator):
    await register(coordinator, "code")
    await register(coordinator, "doc", agent="doc")
    await register(coordinator, "docs")  # it says that it is code
    assert [(one.agent, one.instance) for one in await coordinator.agents()] == [("code", "box-1"), ("doc", "box-1")]


async def test_lost_slots_are_shown_wherever_free_ones_are_and_workers_of_earlier_versions_have_none(
    server: NatsServer, coordinator: Coordinator
):
    await register(coordinator, "code", slots=3, lost=2)
    await register(coordinator, "doc", agent="doc")
    code, doc = await OverviewReader(coordinator).counted_agents()
    assert [one.to_json()["workers"][0]["lost"] for one, _ in (code, doc)] == [2, 0]
    for command in (["agent", "list"], ["status"]):
        assert "1 (2 lost)" in await shown_on_terminal(*command, "--nats-url", server.url)
    trouble = "box-1: 2 slots are lost: a command could not be ended; its log names the processes"
    assert [agent_view(*one, detailed=False).troubles for one in (code, doc)] == [[trouble], None]
    details = agent_view(*code, detailed=True).details
    assert details is not None
    assert details[0]["lost"] == 2


PAUSED = {
    "code": "not_started",
    "reason": "cannot start 'agent': 'agent' does not exist",
    "until": "2026-05-18T00:01:00",
}


async def test_an_agent_whose_workers_are_all_paused_is_named_with_the_reason(
    server: NatsServer, coordinator: Coordinator
):
    refused = {"count": 2, "since": "2026-05-18T00:00:00.5+00:00", "reason": "no right"}
    await register(coordinator, "code", paused=PAUSED, refused=refused)
    [code] = await agents(server.url)
    assert code["workers"][0]["paused"] == PAUSED
    assert code["troubles"] == [
        "box-1: paused until 2026-05-18T00:01:00 (not_started): cannot start 'agent': 'agent' does not exist",
        "box-1: 2 results have been refused by the bus since 2026-05-18T00:00:00: no right",
    ]
    args = ("task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "test", "x")
    said = (await run_cli(*args)).err
    assert said.startswith("all workers of the agent code are paused, and the task waits: box-1: paused until")
    await register(coordinator, "code", instance="box-2")
    [code] = await coordinator.overview()
    assert (code.paused, len(code.troubles)) == (None, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "x" * 501},
        {"paused": {**PAUSED, "reason": "x" * 501}},
        {"paused": {"code": "not_started"}},
        {"refused": {"count": -1, "since": "", "reason": ""}},
        {"host": "x" * 257},
        {"command": ["claude"]},
        {"pid": -1},
        {"slots": 10**30},
        {"free": "many"},
        {"lost": -1},
        {"running": ["ok", "..not an id"]},
        {"running": ["task-1"] * 1025},
        {"running": ["x" * 129]},
    ],
)
async def test_a_worker_that_says_of_itself_what_no_worker_can_say_is_not_listed(
    coordinator: Coordinator, changes: dict[str, Any]
):
    await register(coordinator, "code", **changes)
    await register(coordinator, "doc", agent="doc")
    assert [one.agent for one in await coordinator.agents()] == ["doc"]
