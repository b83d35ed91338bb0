"""A wait for a task that no worker takes now says so once: why, and since when."""

import asyncio
import json
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.protocol.ledger_entry import Setbacks, handed_back
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import PausedWorker
from agentbus.tasks.waiting import paused_agents
from support.harness import eventually, run_cli
from support.mcp_harness import data_of, in_memory, settle
from support.registering import PAUSED, SINCE, register
from support.restricted import all_but, restricted_bus


@pytest.fixture(autouse=True)
async def fast(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paused_agents, "_FIRST_PAUSE_LOOK_S", 0.05)
    monkeypatch.setattr(paused_agents, "_PAUSE_LOOK_S", 0.05)
    await set_up(coordinator.bus, ["code", "doc"])


async def test_a_wait_tells_once_of_each_agent_whose_workers_are_all_paused(coordinator: Coordinator):
    tasks = [await coordinator.publish(agent, "x", task_id="job") for agent in ("code", "doc")]
    told = list[tuple[str, PausedWorker]]()

    def tell(agent: str, pause: PausedWorker) -> None:
        told.append((agent, pause))

    waiting = asyncio.create_task(coordinator.wait(tasks, on_paused=tell))
    await register(coordinator, "box-2")
    await register(coordinator, paused=PAUSED)
    await asyncio.sleep(0.3)
    assert told == [], "another worker is there"
    await register(coordinator, "box-2", paused={**PAUSED, "code": "other"})
    await eventually(lambda: told, "it is told")
    await asyncio.sleep(0.3)
    assert [(agent, pause.code, pause.since) for agent, pause in told] == [("code", "not_started", SINCE)]
    await settle(coordinator, "job", agent="code", task=tasks[0].message)
    await settle(coordinator, "job", agent="doc", task=tasks[1].message)
    assert (await waiting).paused == {}, "none is waited for any more"


async def test_a_wait_that_is_too_short_to_look_looks_at_its_end(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(paused_agents, "_FIRST_PAUSE_LOOK_S", 60)
    await register(coordinator, paused={name: value for name, value in PAUSED.items() if name != "since"})
    waited = await coordinator.wait([await coordinator.publish("code", "x")], timeout_s=0)
    assert {agent: pause.since for agent, pause in waited.paused.items()} == {"code": None}
    waited = await coordinator.wait([await coordinator.publish("doc", "x")], timeout_s=0.2)
    assert waited.paused == {}


async def test_a_user_who_may_not_see_workers_waits_as_ever(tmp_path: Path):
    denied = all_but("$JS.API.CONSUMER.CREATE.KV_AGENT_REGISTRY.>")
    async with restricted_bus(tmp_path, {"main": denied}, agents=["code"]) as bus:
        await register(bus.admin, paused=PAUSED)
        async with connect(bus.url("main")) as main:
            task = await main.publish("code", "x")
            waiting = asyncio.create_task(main.wait([task]))
            await asyncio.sleep(0.3)
            await settle(bus.admin, task.id, task=task.message)
            assert (await waiting).paused == {}


async def test_task_wait_says_so_on_standard_error_and_the_mcp_server_in_its_answer(
    server: NatsServer, coordinator: Coordinator
):
    await register(coordinator, paused=PAUSED)
    task = await coordinator.publish("code", "x")
    ran = await run_cli("task", "wait", task.id, "--timeout", "0.2", "--nats-url", server.url)
    said, pending = ran.err.splitlines()
    assert said == (
        "all workers of the agent code are paused since 2026-05-18T00:00:00 (not_started): no\\n\\x1b[1mcommand; "
        "its tasks wait"
    )
    assert (ran.code, ran.out) == (1, "")
    assert pending.startswith("error: still pending after 0.2 s")
    async with in_memory(server.url) as client:
        call = {"task_ids": [task.id], "timeout_seconds": 0}
        note = data_of(await client.call_tool("watch_results", call))["note"]
    assert "every worker of code is paused since 2026-05-18T00:00:00 (not_started): no" in note


async def test_a_task_that_was_handed_back_shows_how_often_where_and_since_when(
    server: NatsServer, coordinator: Coordinator
):
    task = await coordinator.publish("code", "x")
    ledger, before = Ledger(coordinator.bus), (await task.status()).record
    assert "setbacks" not in before.entry.model_dump(exclude_none=True)
    setbacks = Setbacks(count={"box-0123abcd": 2, "other-0123abcd": 1}, code="not_started", since=SINCE)
    await ledger.write(before.key, handed_back(before.entry, setbacks), revision=before.revision)
    shown = json.loads((await run_cli("task", "get", task.id, "--nats-url", server.url)).out)["setbacks"]
    assert shown == {"count": setbacks.count, "code": "not_started", "since": SINCE}
    async with in_memory(server.url) as client:
        view = data_of(await client.call_tool("get_task", {"task_id": task.id}))
        other = await coordinator.publish("code", "x")
        assert "setbacks" not in data_of(await client.call_tool("get_task", {"task_id": other.id}))
    where = "box-0123abcd (2), other-0123abcd (1)"
    assert view["setbacks"] == f"handed back unrun (not_started) since {SINCE} by {where}"
