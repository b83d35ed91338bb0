"""The feed of the states of tasks where each agent has a ledger of its own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading import ledger_parts
from agentbus.bus.setup import set_up
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.roles import Role
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import run_server
from agentbus.tasks.events import ledger_feed
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.notifications import sources
from agentbus_mcp.notifications.bus_events import BusEvents
from agentbus_mcp.notifications.sources import MessageReader
from support.harness import BOUND_S, eventually
from support.installation import OwnBus, own_bus

pytestmark = pytest.mark.posix("not tried on Windows")

ROLES: dict[str, Role] = {"main": "operator", "alice": "member", "bob": "viewer"}
GAP = "there may be changes that were missed"


@pytest.fixture
async def own(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    named: dict[str, tuple[Role, list[str] | None]] = {"alice": ("member", None), "bob": ("viewer", None)}
    async with own_bus(tmp_path, coordinators=named) as bus:
        yield bus


@asynccontextmanager
async def following(own: OwnBus, name: str) -> AsyncGenerator[asyncio.Queue[str]]:
    """Follow the ledger as the MCP server of a coordinator does; yields the keys that change."""
    heard: asyncio.Queue[str] = asyncio.Queue()

    def hear(message: Delivery | None) -> None:
        heard.put_nowait(message.subject if message is not None else GAP)

    link = BusLink(own.settings(name), name, ROLES[name])
    async with link.open():
        events = BusEvents(link)
        async with events.running():
            events.follow(events.ledger, hear)
            await events.opened(BOUND_S)
            yield heard


async def publish_for_each(own: OwnBus, name: str) -> set[str]:
    """Give both agents a task; returns the keys of the tasks."""
    async with own.coordinator(name, ROLES[name]) as coordinator:
        tasks = [await coordinator.publish(agent, "say:done", task_type="test") for agent in ("code", "doc")]
    return {subjects.state(TaskKey(task.agent, task.id, name)) for task in tasks}


@pytest.mark.parametrize("name", ROLES)
async def test_a_coordinator_is_told_of_the_tasks_that_it_may_see_of_all_agents(own: OwnBus, name: str) -> None:
    async with following(own, name) as heard:
        of_main, of_alice = await publish_for_each(own, "main"), await publish_for_each(own, "alice")
        left = of_alice if name == "alice" else of_main | of_alice
        async with asyncio.timeout(BOUND_S):
            while left:
                key = await heard.get()
                assert key in of_main | of_alice
                assert name != "alice" or key in of_alice
                left = left - {key}
    assert own.violations() == []


async def test_the_ledger_of_a_new_agent_is_followed_once_it_may_be_read_and_the_others_meanwhile(
    own: OwnBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_feed, "_LOOK_S", 0.1)
    monkeypatch.setattr(ledger_parts, "_HIDDEN_FOR_S", 0.5)

    def refused() -> bool:
        return any("CONSUMER.CREATE.KV_AGENT_STATE_new" in line for line in own.violations())

    async with following(own, "main") as heard, connect(own.settings("admin")) as admin:
        await set_up(admin, ["new"])
        await eventually(refused, "the feed has tried to follow the ledger of the new agent")
        left = await publish_for_each(own, "main")
        async with asyncio.timeout(BOUND_S):
            while left:
                left = left - {await heard.get()}
        own.folder.add("new")

        async def told_of_new() -> bool:
            own.server.reload()
            async with own.coordinator("main") as main:
                try:
                    await main.publish("new", "say:done", task_type="test")
                except PermissionDeniedError:  # until the server has read the accounts
                    return False
            while not heard.empty():
                if heard.get_nowait().startswith("$KV.AGENT_STATE.new."):
                    return True
            return False

        await eventually(told_of_new, "a change of the new agent's tasks is told")


async def test_a_ledger_that_is_removed_is_let_go_and_the_others_are_followed_without_a_gap(
    own: OwnBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_feed, "_LOOK_S", 0.1)
    let_go = asyncio.Event()
    follow = ledger_feed.follow

    async def watched(bus: Bus, stream: str, *rest: Any, **more: Any) -> None:
        try:
            await follow(bus, stream, *rest, **more)
        finally:
            if stream == "KV_AGENT_STATE_doc":
                let_go.set()

    monkeypatch.setattr(ledger_feed, "follow", watched)
    async with following(own, "main") as heard, connect(own.settings("admin")) as admin:
        await admin.api("STREAM.DELETE.KV_AGENT_STATE_doc")
        async with asyncio.timeout(BOUND_S):
            await let_go.wait()
            async with own.coordinator("main") as main:
                task = await main.publish("code", "say:done", task_type="test")
            assert await heard.get() == subjects.state(TaskKey("code", task.id, "main"))
    assert own.violations() == []


async def test_a_restart_of_the_server_leaves_no_gap_in_what_is_followed(
    own: OwnBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_feed, "_LOOK_S", 0.1)
    async with following(own, "main") as heard:
        await own.server.stop()
        async with run_server(store=tmp_path / "nats", config=own.folder.servers[0].configuration):
            left = await publish_for_each(own, "main")
            async with asyncio.timeout(BOUND_S):
                while left:
                    key = await heard.get()
                    assert key in left, "nothing but what has changed is told"
                    left = left - {key}


async def test_a_feed_of_which_no_ledger_may_be_read_is_refused(own: OwnBus) -> None:
    async with connect(own.settings("admin")) as admin, connect(own.settings("bob")) as bob:
        await set_up(admin, ["new"])
        for agent in ("code", "doc"):
            await admin.api(f"STREAM.DELETE.KV_AGENT_STATE_{agent}")
        opened: list[None] = []
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(PermissionDeniedError, match="KV_AGENT_STATE_new"):
                await MessageReader(sources.ledger("bob", "viewer")).read(
                    bob, lambda: opened.append(None), lambda _: None
                )
        assert opened == []
