"""The pull loop: asked for when wanted, handed back when not, and never asleep while a message waits."""

import asyncio
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus import pull_consumer
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.nats_client import Msg
from agentbus.bus.pull_consumer import PullConsumer
from agentbus.bus.setup import ensure_consumer
from agentbus.bus.topology import ACK_WAIT_S
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import BusUnavailableError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from support.altered_link import altered_link, lost
from support.harness import BOUND_S, eventually


async def put(bus: Coordinator, number: int) -> None:
    await bus.bus.store("agent.code.tasks", b"%d" % number, msg_id=str(number))


async def waits(bus: Bus) -> bool:
    return (await bus.api("CONSUMER.INFO.AGENT_TASKS.agent-code"))["num_pending"] > 0


async def test_a_message_right_behind_a_heartbeat_is_delivered_at_once(coordinator: Coordinator):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as puller:
        receive: Any = puller._receive  # pyright: ignore[reportPrivateUsage]
        waiting = asyncio.create_task(puller.next())
        await eventually(lambda: puller._wanted, "it waits")  # pyright: ignore[reportPrivateUsage]
        info = await bus.api("CONSUMER.INFO.AGENT_TASKS.agent-code")
        assert info["num_ack_pending"] == 0

        # A heartbeat that has arrived and was not looked at yet: what follows it is wanted all the same.
        class Heartbeat:
            subject = f"{puller._inbox}.1"  # pyright: ignore[reportPrivateUsage]
            reply = ""
            data = b""
            headers = {"Status": "100", "Description": "Idle Heartbeat"}  # noqa: RUF012

        receive(Heartbeat())
        await put(coordinator, 1)
        async with asyncio.timeout(BOUND_S):
            delivery = await waiting
        assert (delivery.data, delivery.num_delivered) == (b"1", 1)
        await delivery.ack()


async def test_nothing_is_delivered_ahead_of_demand(coordinator: Coordinator):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as puller:
        await put(coordinator, 1)
        await put(coordinator, 2)
        first = await puller.next()
        info = await bus.api("CONSUMER.INFO.AGENT_TASKS.agent-code")
        assert (info["num_ack_pending"], info["num_pending"]) == (1, 1)
        assert (await puller.next()).data == b"2"
        await first.ack()


async def test_what_arrives_when_nobody_waits_any_more_goes_to_another(coordinator: Coordinator):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as one:
        waiting = asyncio.create_task(one.next())
        await eventually(lambda: one._open, "it has asked")  # pyright: ignore[reportPrivateUsage]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await put(coordinator, 1)
        async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as two, asyncio.timeout(ACK_WAIT_S - 5):
            assert (await two.next()).data == b"1"


async def test_what_is_there_is_fetched_with_one_request_in_order_and_no_more_than_was_asked_for(
    coordinator: Coordinator,
):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    for number in range(5):
        await put(coordinator, number)
    async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as puller, asyncio.timeout(BOUND_S):
        assert [delivery.data for delivery in await puller.fetch(3)] == [b"0", b"1", b"2"]
        info = await bus.api("CONSUMER.INFO.AGENT_TASKS.agent-code")
        assert (info["num_ack_pending"], info["num_pending"]) == (3, 2)
        assert [delivery.data for delivery in await puller.fetch(3)] == [b"3", b"4"]
        assert await puller.fetch(3) == []


async def test_waiting_and_fetching_take_turns(coordinator: Coordinator):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as puller, asyncio.timeout(BOUND_S):
        assert await puller.fetch(2) == []
        waiting = asyncio.create_task(puller.next())
        await eventually(lambda: puller._open, "it has asked")  # pyright: ignore[reportPrivateUsage]
        await put(coordinator, 1)
        assert (await waiting).data == b"1"
        await put(coordinator, 2)
        # The stream has it before the consumer counts it, and a fetch does not wait.
        await eventually(lambda: waits(bus), "the consumer has it")
        assert [delivery.data for delivery in await puller.fetch(2)] == [b"2"]
        await put(coordinator, 3)
        assert (await puller.next()).data == b"3"


async def test_a_fetch_from_a_consumer_that_is_gone_says_so_like_a_wait(coordinator: Coordinator):
    bus = coordinator.bus
    async with (
        PullConsumer(bus, subjects.TASKS_STREAM, "agent-none", missing_after_s=0.1) as puller,
        asyncio.timeout(BOUND_S),
    ):

        async def fetch_until_refused() -> None:
            while await puller.fetch(2) == []:
                pass

        with pytest.raises(SetupMissingError, match="agent-none"):
            await fetch_until_refused()


async def test_what_a_fetch_that_is_cancelled_had_got_goes_to_another_at_once(coordinator: Coordinator):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    await put(coordinator, 1)
    async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as one:
        told = asyncio.Event()
        # As if the server did not say that there is nothing else.
        one._on_status = lambda message: told.set()  # noqa: ARG005  # pyright: ignore[reportPrivateUsage]
        fetching = asyncio.create_task(one.fetch(2))
        async with asyncio.timeout(BOUND_S):
            await told.wait()
        fetching.cancel()
        await asyncio.wait({fetching})
        async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as two, asyncio.timeout(ACK_WAIT_S - 5):
            delivery = await two.next()
            assert (delivery.data, delivery.num_delivered) == (b"1", 2)


async def test_messages_that_were_not_taken_when_a_consumer_closes_go_to_another_one_at_once(
    coordinator: Coordinator,
):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    for number in range(3):
        await put(coordinator, number)
    one = PullConsumer(bus, subjects.TASKS_STREAM, "agent-code")
    real, all_there = one._receive, asyncio.Event()  # pyright: ignore[reportPrivateUsage]
    arrived: list[Msg] = []

    def receive(message: Msg) -> None:
        real(message)
        fetching.cancel()
        arrived.append(message)
        if len(arrived) == 3:
            all_there.set()

    one._receive = receive  # pyright: ignore[reportPrivateUsage]
    async with asyncio.timeout(BOUND_S):
        async with one:
            fetching = asyncio.create_task(one.fetch(3))
            await asyncio.wait({fetching})
            assert fetching.cancelled()
            await all_there.wait()
        async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as two:
            deliveries = [await two.next() for _ in range(3)]
    assert {(delivery.data, delivery.num_delivered) for delivery in deliveries} == {(b"0", 2), (b"1", 2), (b"2", 2)}


@pytest.mark.long
async def test_a_pull_request_without_heartbeats_is_sent_again(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pull_consumer, "_SILENCE_S", 0.3)
    await ensure_consumer(coordinator.bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    async with (
        altered_link(server.url) as link,
        connect(connection_settings(NatsSection(url=link.url), agent="code", name="test")) as bus,
        PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as puller,
        asyncio.timeout(BOUND_S),
    ):
        link.changes["agent.code.tasks"] = lost
        waiting = asyncio.create_task(puller.next())
        await eventually(lambda: puller._requests > 1, "it has asked again")  # pyright: ignore[reportPrivateUsage]
        link.changes.clear()
        await put(coordinator, 1)
        assert (await waiting).data == b"1"


async def test_a_pull_request_that_could_not_be_sent_is_sent_when_there_is_a_connection(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    await put(coordinator, 1)
    async with PullConsumer(bus, subjects.TASKS_STREAM, "agent-code") as puller, asyncio.timeout(BOUND_S):
        publish, breaks = bus.publish, [True]

        async def break_once(*args: Any, **more: Any) -> None:
            if breaks:
                breaks.clear()
                raise BusUnavailableError("the connection broke")
            await publish(*args, **more)

        monkeypatch.setattr(bus, "publish", break_once)
        monkeypatch.setattr(pull_consumer, "_SILENCE_S", 0.3)
        assert (await puller.next()).data == b"1"
