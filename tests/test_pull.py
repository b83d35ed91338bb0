"""The pull loop: asked for when wanted, handed back when not, and never asleep while a message waits."""

import asyncio
from typing import Any

from agentbus import Coordinator, subjects
from agentbus.pull import Puller
from agentbus.streams import ensure_consumer
from harness import eventually


async def put(bus: Coordinator, number: int) -> None:
    await bus.bus.store("agent.code.tasks", b"%d" % number, msg_id=str(number))


async def test_a_message_right_behind_a_heartbeat_is_delivered_at_once(coordinator: Coordinator):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    async with Puller(bus, subjects.TASKS_STREAM, "agent-code") as puller:
        arrived: Any = puller._arrived  # pyright: ignore[reportPrivateUsage]
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

        arrived.put_nowait(Heartbeat())
        await put(coordinator, 1)
        async with asyncio.timeout(5):
            delivery = await waiting
        assert (delivery.data, delivery.num_delivered) == (b"1", 1)
        await delivery.ack()


async def test_nothing_is_delivered_ahead_of_demand(coordinator: Coordinator):
    bus = coordinator.bus
    await ensure_consumer(bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")
    async with Puller(bus, subjects.TASKS_STREAM, "agent-code") as puller:
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
    async with Puller(bus, subjects.TASKS_STREAM, "agent-code") as one:
        waiting = asyncio.create_task(one.next())
        await eventually(lambda: one._open, "it has asked")  # pyright: ignore[reportPrivateUsage]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await put(coordinator, 1)
        async with Puller(bus, subjects.TASKS_STREAM, "agent-code") as two, asyncio.timeout(5):
            assert (await two.next()).data == b"1"
