"""Subscriptions of clients of both protocol eras: which changes are notified, across restarts of the bus."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.subscriptions import Subscription
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import ResourceListChangedNotification, ResourceUpdatedNotification

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.protocol.ledger_entry import Record, renewed
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer, run_server, start_server
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import announce, withdraw
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.notifications.pending_events import PendingEvents, TaskUpdated
from agentbus_mcp.server import create_server
from support.asking_worker import asking
from support.free_ports import free_port
from support.harness import BOUND_S, eventually
from support.mcp_harness import (
    AGENTS,
    INBOX,
    NOWHERE,
    RESULTS,
    TASKS,
    both_eras,
    in_memory,
    put,
    result_message,
    settle,
    worker_of,
)
from support.restricted import only, restricted_bus

pytestmark = pytest.mark.filterwarnings("ignore:resources/(un)?subscribe is removed")

OTHER_INBOX = "agentbus://agents/ops/results"
TASK = "agentbus://tasks/a"
QUESTIONS, MARKER = "agentbus://questions", "agentbus://tasks/marker"
LISTED = "the list"


@dataclass
class Subscriber:
    """A client and its notifications: URIs, and `LISTED`."""

    client: Client
    notified: asyncio.Queue[str]
    honored: list[str]
    subscription: Subscription | None = None

    async def next(self) -> str:
        async with asyncio.timeout(BOUND_S):
            return await self.notified.get()

    def rest(self) -> set[str]:
        found: set[str] = set()
        while not self.notified.empty():
            found.add(self.notified.get_nowait())
        return found

    async def until(self, uri: str) -> None:
        """Wait for the notification of `uri`, and ignore others before it."""
        while await self.next() != uri:
            pass


@asynccontextmanager
async def subscribed(url: str, era: str, *uris: str, listed: bool = False) -> AsyncGenerator[Subscriber]:
    """Connect a client that is subscribed to `uris`."""
    notified: asyncio.Queue[str] = asyncio.Queue()

    async def handle(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            notified.put_nowait(message.params.uri)
        elif isinstance(message, ResourceListChangedNotification):
            notified.put_nowait(LISTED)

    async def collect(subscription: Subscription) -> None:
        async for event in subscription:
            notified.put_nowait(event.uri if isinstance(event, ResourceUpdated) else LISTED)

    bus_link = BusLink(
        connection_settings(NatsSection(url=url), agent="main", name="test", reconnect_wait_s=0.2), "main"
    )
    handler = handle if era == "legacy" else None
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus_link.open())
        client = await stack.enter_async_context(Client(create_server(bus_link), mode=era, message_handler=handler))
        if era == "legacy":
            if listed:
                await client.list_resources()
            for uri in uris:
                await subscribe(client, uri)
            yield Subscriber(client, notified, list(uris))
            return
        listening = client.listen(resource_subscriptions=uris, resources_list_changed=listed)
        subscription = await stack.enter_async_context(listening)
        reading = asyncio.create_task(collect(subscription))
        try:
            yield Subscriber(client, notified, list(subscription.honored.resource_subscriptions or ()), subscription)
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading


async def subscribe(client: Client, uri: str) -> None:
    await client.subscribe_resource(uri)  # pyright: ignore[reportDeprecated]


async def unsubscribe(client: Client, uri: str) -> None:
    await client.unsubscribe_resource(uri)  # pyright: ignore[reportDeprecated]


# -- notifications ----------------------------------------------------------------------------------------------


@both_eras
async def test_a_message_in_an_inbox_is_notified(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    async with subscribed(server.url, era, INBOX, OTHER_INBOX, RESULTS) as subscriber:
        await put(coordinator, result_message("a", "hello"))
        assert {await subscriber.next(), await subscriber.next()} == {INBOX, RESULTS}
        await put(coordinator, result_message("b", "hello"), inbox="ops")
        assert {await subscriber.next(), await subscriber.next()} == {OTHER_INBOX, RESULTS}
        assert subscriber.rest() == set()


@both_eras
async def test_the_task_of_an_agent_is_notified_and_not_another_agents_of_the_same_id(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    of_code = "agentbus://tasks/code/a"
    async with subscribed(server.url, era, of_code, TASKS) as subscriber:
        await coordinator.publish("doc", "x", task_type="test", task_id="a")
        assert await subscriber.next() == TASKS
        await coordinator.publish("code", "x", task_type="test", task_id="a")
        assert {await subscriber.next(), await subscriber.next()} == {of_code, TASKS}
        assert subscriber.rest() == set()


@both_eras
async def test_every_change_of_a_task_is_notified_but_not_the_renewals_of_its_lease(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with subscribed(server.url, era, TASK) as subscriber:
        await coordinator.publish("code", "work", task_type="test", task_id="another")
        await coordinator.publish("code", "work", task_type="test", task_id="a")
        assert await subscriber.next() == TASK
        await claim(coordinator, "a")
        assert await subscriber.next() == TASK
        for _ in range(3):
            await renew(coordinator, "a")
        await settle(coordinator, "a")
        assert await subscriber.next() == TASK
        assert subscriber.rest() == set()


async def claim(coordinator: Coordinator, task_id: str) -> None:
    """Claim a task as a worker does."""
    record = await Ledger(coordinator.bus).read(TaskKey("code", task_id))
    assert isinstance(record, Record)
    claim = {"worker": "w", "nonce": "n", "lease_s": 30, "since": "2026-11-22T00:00:00Z"}
    entry = record.entry.model_validate({**record.entry.model_dump(), "state": "working", "claim": claim})
    await Ledger(coordinator.bus).write(TaskKey("code", task_id), entry, revision=record.revision)


async def renew(coordinator: Coordinator, task_id: str) -> None:
    record = await Ledger(coordinator.bus).read(TaskKey("code", task_id))
    assert isinstance(record, Record)
    await Ledger(coordinator.bus).write(TaskKey("code", task_id), renewed(record.entry), revision=record.revision)


@both_eras
async def test_the_backlog_changes_with_every_task_that_comes_or_goes(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with subscribed(server.url, era, TASKS) as subscriber:
        await coordinator.publish("code", "work", task_type="test", task_id="a")
        assert await subscriber.next() == TASKS
        await settle(coordinator, "a")
        assert await subscriber.next() == TASKS


@both_eras
async def test_agents_that_come_go_or_change_are_notified(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await announce(coordinator.bus, worker_of("doc"))
    async with subscribed(server.url, era, AGENTS, listed=True) as subscriber:
        await announce(coordinator.bus, worker_of("doc"))  # a heartbeat without a change
        await announce(coordinator.bus, worker_of("code"))
        assert {await subscriber.next(), await subscriber.next()} == {AGENTS, LISTED}
        await announce(coordinator.bus, worker_of("code", free=0))
        assert await subscriber.next() == AGENTS
        await withdraw(coordinator.bus, worker_of("code"))
        assert {await subscriber.next(), await subscriber.next()} == {AGENTS, LISTED}
        assert subscriber.rest() == set()


@both_eras
async def test_both_eras_say_that_resources_can_be_subscribed_to_and_their_list_changes(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        capabilities = client.server_capabilities
        assert capabilities
        assert capabilities.resources
        assert (capabilities.resources.subscribe, capabilities.resources.list_changed) == (True, True)
        assert capabilities.completions is not None


async def test_unsubscribing_ends_the_notifications(server: NatsServer, coordinator: Coordinator) -> None:
    async with subscribed(server.url, "legacy", INBOX, TASK) as subscriber:
        await unsubscribe(subscriber.client, INBOX)
        await unsubscribe(subscriber.client, "agentbus://never/subscribed")
        await put(coordinator, result_message("b", "hello"))
        await coordinator.publish("code", "work", task_type="test", task_id="a")
        assert await subscriber.next() == TASK


async def test_subscriptions_that_can_never_notify_are_not_confirmed(
    server: NatsServer, coordinator: Coordinator
) -> None:
    strange = ["agentbus://agents/a b/results", "agentbus://streams/KV_AGENT_STATE", "file:///etc/passwd", INBOX]
    async with subscribed(server.url, "auto", *strange) as subscriber:
        assert subscriber.honored == [INBOX]
    async with subscribed(server.url, "legacy", *strange) as subscriber:
        await put(coordinator, result_message("b", "hello"))
        assert await subscriber.next() == INBOX


async def test_the_subscriptions_of_a_client_are_bounded(server: NatsServer, coordinator: Coordinator) -> None:
    async with subscribed(
        server.url, "auto", *(f"agentbus://agents/a{number}/results" for number in range(300))
    ) as subscriber:
        assert len(subscriber.honored) == 64
    async with subscribed(server.url, "auto", *(f"agentbus://tasks/a{number}" for number in range(300))) as subscriber:
        assert len(subscriber.honored) == 256
    async with subscribed(server.url, "legacy") as subscriber:
        for number in range(256):
            await subscribe(subscriber.client, f"agentbus://tasks/a{number}")
        with pytest.raises(MCPError, match="Subscription limit reached"):
            await subscribe(subscriber.client, "agentbus://tasks/one-more")


async def test_consumers_exist_only_while_a_client_is_subscribed(server: NatsServer, coordinator: Coordinator) -> None:
    async def consumers(stream: str) -> int:
        return (await coordinator.bus.api(f"CONSUMER.LIST.{stream}"))["total"]

    async with subscribed(server.url, "auto", INBOX, TASK) as subscriber:
        assert (await consumers("AGENT_RESULTS"), await consumers("KV_AGENT_STATE")) == (1, 1)
        async with subscriber.client.listen(resource_subscriptions=[INBOX, TASK, "agentbus://tasks/b"]):
            assert (await consumers("AGENT_RESULTS"), await consumers("KV_AGENT_STATE")) == (1, 1)

    async def gone() -> bool:
        return (await consumers("AGENT_RESULTS"), await consumers("KV_AGENT_STATE")) == (0, 0)

    await eventually(gone, "the consumers are gone")


# -- outages of the bus -----------------------------------------------------------------------------------------


@both_eras
async def test_a_restart_of_the_bus_loses_nothing(era: str, tmp_path: Path) -> None:
    server = await start_server(store=tmp_path, port=free_port())
    try:
        port = int(server.url.rpartition(":")[2])
        async with connect(server.url) as coordinator:
            await set_up(coordinator.bus)
            async with subscribed(server.url, era, INBOX, TASK, AGENTS, listed=True) as subscriber:
                server.kill()
                server = await start_server(store=tmp_path, port=port)
                await coordinator.bus.wait_connected()
                await coordinator.publish("code", "work", task_type="test", task_id="a")
                await subscriber.until(TASK)
                await put(coordinator, result_message("b", "hello"))
                await subscriber.until(INBOX)
                await announce(coordinator.bus, worker_of("code"))
                await subscriber.until(LISTED)
    finally:
        await server.stop()


@both_eras
async def test_a_subscription_made_without_a_bus_works_once_it_is_up(era: str, tmp_path: Path) -> None:
    async with run_server(store=tmp_path, port=free_port()) as first, connect(first.url) as coordinator:
        url, port = first.url, int(first.url.rpartition(":")[2])
        await set_up(coordinator.bus)
    async with (
        subscribed(url, era, INBOX) as subscriber,
        run_server(store=tmp_path, port=port),
        connect(url) as coordinator,
    ):
        await eventually(lambda: consumer_of_inbox(coordinator), "the inbox is followed")
        await put(coordinator, result_message("b", "hello"))
        assert await subscriber.next() == INBOX


async def consumer_of_inbox(coordinator: Coordinator) -> bool:
    return (await coordinator.bus.api("CONSUMER.LIST.AGENT_RESULTS"))["total"] > 0


@both_eras
async def test_without_permission_for_all_inboxes_only_the_own_inbox_is_notified(era: str, tmp_path: Path) -> None:
    allowed = ["$JS.API.CONSUMER.CREATE.AGENT_RESULTS.*.agent.main.results", "$JS.API.CONSUMER.MSG.NEXT.>"]
    async with (
        restricted_bus(tmp_path, {"agent-main": only(allowed)}) as bus,
        subscribed(bus.url("agent-main"), era, RESULTS, OTHER_INBOX) as subscriber,
    ):
        await put(bus.admin, result_message("b", "hello"), inbox="ops")
        await put(bus.admin, result_message("a", "hello"))
        assert await subscriber.next() == RESULTS
        assert subscriber.rest() == set()


# -- clients that do not read -----------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_gets_repeated_changes_once() -> None:
    subscriber = PendingEvents()
    for number in range(10_000):
        subscriber.put(ResourceUpdated(uri=INBOX))
        subscriber.put(ResourcesListChanged())
        subscriber.put(TaskUpdated(f"task-{number % 3}"))
    subscriber.close()
    found = [event async for event in drained(subscriber)]
    assert found == [ResourceUpdated(uri=INBOX), ResourcesListChanged(), *(TaskUpdated(f"task-{n}") for n in range(3))]


async def drained(subscriber: PendingEvents) -> AsyncGenerator[Any]:
    while (event := await subscriber.next()) is not None:
        yield event


async def test_a_closed_server_ends_its_streams_in_order(server: NatsServer, coordinator: Coordinator) -> None:
    bus_link = BusLink(connection_settings(NatsSection(url=server.url), agent="main", name="test"), "main")
    mcp = create_server(bus_link)
    async with bus_link.open(), Client(mcp) as client, client.listen(resource_subscriptions=[INBOX]) as subscription:
        mcp.end_waits()
        with anyio.fail_after(BOUND_S):
            assert [event async for event in subscription] == []


@both_eras
async def test_questions_are_told_when_they_are_asked_and_answered_and_not_when_leases_are_renewed(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async def answer_all() -> None:
        for question in (await coordinator.questions()).questions:
            await coordinator.answer_question(question.id, approve=True)

    async def end_asking() -> None:
        task = (await coordinator.publish("code", "work", task_type="test", task_id="b")).message
        await settle(coordinator, "b", "status=needs_approval", status="needs_approval", task=task)

    async with subscribed(server.url, era, QUESTIONS, MARKER) as client:
        run = await asking(coordinator, "a")
        for _ in range(5):
            await run.renew()
        await coordinator.publish("code", "work", task_type="test", task_id="marker")
        assert await client.next() == MARKER
        for step in (
            lambda: run.ask("Bash", "git push"),
            answer_all,
            end_asking,
            answer_all,
            lambda: run.ask("Bash", "git tag"),
            run.lose,
            lambda: settle(coordinator, "a"),
        ):
            await step()
            await client.until(QUESTIONS)
