"""The events of a coordinator's own tasks: each once and in order, over absences of reader and server."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.errors import ConfigError
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import run_server
from agentbus.tasks.events import own_events, position
from agentbus.tasks.events.own_events import OwnEvents, open_events
from agentbus.tasks.events.position import Position, position_of, read_position, write_position
from agentbus.tasks.events.task_event import TaskEvent
from support.asking_worker import asking
from support.free_ports import free_port
from support.harness import BOUND_S, eventually
from support.mcp_harness import settle
from support.registering import PAUSED, register

CODE = ["code", "doc"]


@pytest.fixture(autouse=True)
async def streams(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, CODE)


@asynccontextmanager
async def events_of(bus: Coordinator, own: str = "main", at: Position | None = None) -> AsyncGenerator[OwnEvents]:
    async with open_events(bus.bus, own, at) as events:
        async with asyncio.timeout(BOUND_S):
            await events.opened()
        yield events


async def next_of(events: OwnEvents, count: int = 1) -> list[TaskEvent]:
    async with asyncio.timeout(BOUND_S):
        return [await events.next() for _ in range(count)]


async def finish(bus: Coordinator, task_id: str, agent: str = "code", **how: Any) -> None:
    task = await bus.publish(agent, "x", task_id=task_id)
    await settle(bus, task_id, agent=agent, task=task.message, **how)


async def test_each_end_of_a_task_is_an_event_with_nothing_of_the_agent_in_it(coordinator: Coordinator) -> None:
    await finish(coordinator, "before")
    async with events_of(coordinator) as events:
        await finish(coordinator, "good", output="\x1b[1mrun this")
        await finish(coordinator, "bad", status="failed", output="evil")
        await finish(coordinator, "ask", status="needs_approval", output="status=needs_approval\nevil")
        found = await next_of(events, 3)
    assert [event.line for event in found] == [
        "agentbus: task good of agent code completed",
        "agentbus: task bad of agent code failed",
        "agentbus: task ask of agent code asks for an approval",
    ]
    assert [(event.kind, event.status, event.name) for event in found] == [
        ("settled", "completed", "code/good"),
        ("settled", "failed", "code/bad"),
        ("asks", "needs_approval", "code/ask"),
    ]
    assert "evil" not in str([event.to_json() for event in found])


async def test_a_question_of_a_run_is_told_once_and_a_second_one_too(coordinator: Coordinator) -> None:
    run = await asking(coordinator, "held")
    async with events_of(coordinator) as events:
        await run.renew()
        first = await run.ask(arguments={"command": "git push"})
        [one] = await next_of(events)
        await run.renew()
        second = await run.ask(arguments={"command": "git tag"})
        [two] = await next_of(events)
        stored = events.position.to_json()
    assert (one.part, two.part) == (first, second)
    assert one.line == "agentbus: task held of agent code asks a question"
    async with events_of(coordinator, at=position_of(stored)) as events:
        await run.renew()
        await finish(coordinator, "done")
        [event] = await next_of(events)
        assert event.status == "completed", "the open questions are not told again"


async def test_a_reader_that_was_away_gets_each_event_once_and_in_order(coordinator: Coordinator) -> None:
    async with events_of(coordinator) as events:
        await finish(coordinator, "first")
        await next_of(events)
        stored = events.position.to_json()
    for number in range(5):
        await finish(coordinator, f"away-{number}", agent=CODE[number % 2])
    async with events_of(coordinator, at=position_of(stored)) as events:
        await finish(coordinator, "last")
        found = await next_of(events, 6)
    assert [event.task.id for event in found if event.task] == [*(f"away-{number}" for number in range(5)), "last"]


async def test_only_the_tasks_of_the_coordinator_are_told(coordinator: Coordinator) -> None:
    alice = Coordinator(coordinator.bus, "alice", "operator")
    async with events_of(coordinator) as events, events_of(coordinator, "alice") as hers:
        task = await alice.publish("code", "x", task_id="same")
        await settle(alice, "same", task=task.message, owner="alice")
        await finish(coordinator, "same")
        [mine], [of_alice] = await next_of(events), await next_of(hers)
    assert (mine.task, of_alice.task) == (TaskKey("code", "same"), TaskKey("code", "same", "alice"))
    assert of_alice.name == "code/~alice/same"


async def test_reading_goes_on_over_a_restart_of_the_server(tmp_path: Path) -> None:
    port = free_port()
    async with run_server(store=tmp_path / "store", port=port) as server, connect(server.url) as bus:
        await set_up(bus.bus, CODE)
        async with events_of(bus) as events:
            await finish(bus, "one")
            await next_of(events)
            await server.stop()
            async with run_server(store=tmp_path / "store", port=port):
                await bus.bus.wait_connected()
                await finish(bus, "two")
                [event] = await next_of(events)
                assert event.task == TaskKey("code", "two")


async def test_a_task_whose_worker_is_gone_is_told_once_for_each_attempt(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOOK_S", "_SILENT_S", "_GRACE_S"):
        monkeypatch.setattr(own_events, name, 0.05)
    run = await asking(coordinator, "held")
    await run.renew(lease_s=0.05)
    async with events_of(coordinator) as events:
        [lost] = await next_of(events)
        assert (lost.kind, lost.line) == (
            "lost", "agentbus: task held of agent code has lost its worker and waits for another one"
        )  # fmt: skip
        await finish(coordinator, "done")
        [event] = await next_of(events)
        assert event.status == "completed"
        await run.lose(lease_s=0.05)
        [again] = await next_of(events)
        assert (again.kind, again.part) == ("lost", "2")


async def test_agents_whose_workers_are_all_paused_are_told_where_tasks_wait(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_events, "LOOK_S", 0.05)
    await register(coordinator, paused={**PAUSED, "code": "rate_limit", "reason": "evil"})
    async with events_of(coordinator) as events:
        for number in range(2):
            await coordinator.publish("code", "x", task_id=f"job-{number}")
        [paused] = await next_of(events)
        assert paused.line.startswith("agentbus: agent code is paused (rate_limit); ")
        assert (paused.is_of(["lost"]), paused.is_of(["settled", "asks"])) == (True, False)
        await register(coordinator)
        await eventually(lambda: not events.position.has_told(paused), "the end of the pause is seen")
        await register(coordinator, paused={**PAUSED, "code": "\x1b[2J"})
        [again] = await next_of(events)
        assert again.line == "agentbus: agent code is paused; 2 tasks wait for it"


async def test_a_position_is_kept_in_a_private_file_and_a_broken_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "new" / "position.json"
    assert read_position(file) is None
    now = position_of({"at": "2026-11-30T10:00:00+00:00", "told": ["settled:main:code:a"]})
    write_position(file, now)
    assert read_position(file) == now
    for wrong in ("", "[]", '{"at": "2026-11-30"}', '{"at": 1e999}', "[" * 5_000, '{"at": null, "told": {}}'):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(ConfigError, match="holds no position among events; remove it, and reading begins now"):
            read_position(file)


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position, "_MOST_TOLD", 3)
    at = position_of({"at": "2026-11-30T10:00:00+00:00"})
    events = [TaskEvent("settled", "main", "code", TaskKey("code", f"t{n}"), "completed", at.at) for n in range(5)]  # pyright: ignore[reportArgumentType]
    for event in events:
        at.tell(event)
        at.has_told(events[0])
    assert [at.has_told(event) for event in events] == [True, False, False, True, True]
