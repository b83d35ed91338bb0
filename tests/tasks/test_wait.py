"""Waiting for tasks while the bus goes away, and comes back, or does not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, connect
from agentbus.bus import jetstream, ordered_consumer
from agentbus.bus.setup import set_up
from agentbus.errors import SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.task_names import TaskQuery
from agentbus.provision.nats_server import NatsServer, run_server, start_server
from agentbus.tasks.find import find_all
from agentbus.tasks.lost import lost_tasks
from agentbus.tasks.waiting.listeners import Listeners
from agentbus.tasks.waiting.wait import repeat_while_away, wait_for
from support.altered_link import altered_link, refused
from support.free_ports import free_port
from support.harness import eventually
from support.mcp_harness import settle


async def until_followed(bus: Coordinator) -> None:
    """Wait until a consumer follows the ledger."""

    async def followed() -> bool:
        answer = await bus.bus.api("CONSUMER.LIST.KV_AGENT_STATE")
        listed: list[dict[str, Any]] = answer["consumers"] or []
        return any(one["num_waiting"] for one in listed)

    await eventually(followed, "a consumer follows the ledger")


async def test_a_wait_outlasts_a_server_that_is_stopped_and_started(tmp_path: Path) -> None:
    server = await start_server(store=tmp_path, port=free_port())
    try:
        port = int(server.url.rpartition(":")[2])
        async with connect(server.url) as main, connect(server.url) as other:
            await set_up(main.bus)
            await main.publish("code", "work", task_type="test", task_id="a")
            waiting = asyncio.create_task(main.wait(["a"], timeout_s=120))
            await until_followed(other)
            await server.stop()
            await eventually(lambda: not main.bus.connected, "the connection is lost")
            server = await start_server(store=tmp_path, port=port)
            await other.bus.wait_connected()
            await settle(other, "a")
            waited = await waiting
            assert waited.settled["a"].state == "completed"
            assert waited.current
    finally:
        await server.stop()


async def test_a_bus_that_stays_away_gives_the_states_that_were_seen_last(tmp_path: Path) -> None:
    async with run_server(store=tmp_path) as server, connect(server.url) as main:
        await set_up(main.bus)
        for task_id in ("a", "b"):
            await main.publish("code", "work", task_type="test", task_id=task_id)
        await settle(main, "a")
        found, _ = await find_all(main.bus, [TaskQuery("a"), TaskQuery("b")])
        server.kill()
        await eventually(lambda: not main.bus.connected, "the connection is lost")
        waited = await wait_for(main.bus, found, timeout_s=0.2)
    assert not waited.current
    assert {task_id: status.state for task_id, status in waited.settled.items()} == {"a": "completed"}
    assert {task_id: status.state for task_id, status in waited.pending.items()} == {"b": "queued"}


async def test_looking_up_waits_for_a_connection_that_comes_back(tmp_path: Path) -> None:
    server = await start_server(store=tmp_path, port=free_port())
    try:
        port = int(server.url.rpartition(":")[2])
        async with connect(server.url) as main:
            await set_up(main.bus)
            await main.publish("code", "work", task_type="test", task_id="a")
            server.kill()
            await eventually(lambda: not main.bus.connected, "the connection is lost")
            looking = asyncio.create_task(repeat_while_away(main.bus, lambda: find_all(main.bus, [TaskQuery("a")]), 60))
            server = await start_server(store=tmp_path, port=port)
            assert [record.task_id for record in (await looking)[0].values()] == ["a"]
    finally:
        await server.stop()


async def test_changes_are_told_with_the_attempt(coordinator: Coordinator) -> None:
    from agentbus.protocol.ledger_entry import Claim, claimed  # noqa: PLC0415
    from agentbus.tasks.ledger import Ledger  # noqa: PLC0415

    await coordinator.publish("code", "work", task_type="test", task_id="a")
    told: list[tuple[str, int]] = []
    found, _ = await find_all(coordinator.bus, [TaskQuery("a")])
    record = next(iter(found.values()))
    waiting = asyncio.create_task(
        wait_for(
            coordinator.bus,
            found,
            timeout_s=60,
            listeners=Listeners(lambda status: told.append((status.state, status.record.entry.attempt))),
        )
    )
    await until_followed(coordinator)
    claim = Claim(worker="w", nonce="n", lease_s=30, since="now")
    entry = claimed(record.entry, claim, 2)
    await Ledger(coordinator.bus).write(TaskKey("code", "a"), entry, revision=record.revision)
    await eventually(lambda: told, "the claim is told")
    await settle(coordinator, "a")
    assert (await waiting).settled["a"].state == "completed"
    assert told == [("working", 2), ("completed", 2)]


async def test_looking_up_many_tasks_takes_up_none_of_the_servers_consumers(coordinator: Coordinator) -> None:
    tasks = [await coordinator.publish("code", "x") for _ in range(20)]
    wanted = [TaskQuery(task.id) for task in tasks]
    found = await asyncio.gather(*(find_all(coordinator.bus, wanted) for _ in range(60)))
    assert all(len(one) == len(tasks) for one, _ in found)
    assert await coordinator.bus.consumers(subjects.STATE_STREAM) == []


async def test_a_wait_survives_a_stream_without_a_leader(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "_STARTING_S", 0.2)
    monkeypatch.setattr(lost_tasks, "_NAMED_AFTER_S", 0.0)
    leaderless, asked = refused(10118, "JetStream cluster stream has no leader", code=503), list[bytes]()

    def elect(data: bytes) -> bytes | None:
        asked.append(data)
        return leaderless(data) if len(asked) < 10 else data

    await coordinator.publish("code", "work", task_type="test", task_id="a")
    async with altered_link(server.url) as link, connect(link.url) as main:
        link.changes["$JS.API.STREAM.INFO.AGENT_TASKS"] = elect
        waiting = asyncio.create_task(main.wait(["a"], timeout_s=60))
        await eventually(lambda: len(asked) >= 10, "there is a leader")
        await settle(coordinator, "a")
        assert (await waiting).settled["a"].state == "completed"


async def test_a_deleted_ledger_ends_a_wait_with_an_error(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_consumer, "_RESUME_TIMEOUT_S", 0.3)
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    waiting = asyncio.create_task(coordinator.wait(["a"], timeout_s=60))
    await until_followed(coordinator)
    await coordinator.bus.api(f"STREAM.DELETE.{subjects.STATE_STREAM}")
    with pytest.raises(SetupMissingError, match="agentbus setup"):
        await waiting
