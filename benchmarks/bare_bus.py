"""Measures the limit for anything that is sent over the bus: plain nats-py on the same server."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.aio.msg import Msg

from agentbus.protocol.ids import random_token


class BareBus:
    """A plain connection of nats-py. Its figures are milliseconds."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._jetstream = client.jetstream()  # pyright: ignore[reportUnknownMemberType]

    async def round_trip(self, subject: str, data: bytes) -> float:
        """Time one JetStream request: publish with an id, and wait for the PubAck."""
        start = time.perf_counter()
        await self._jetstream.publish(subject, data, headers={"Nats-Msg-Id": random_token()})
        return (time.perf_counter() - start) * 1000

    async def two_round_trips(self, subject: str, data: bytes) -> float:
        return await self.round_trip(subject, data) + await self.round_trip(subject, data)

    async def fill(self, subject_of: Callable[[int], str], data: bytes, count: int) -> None:
        """Store `count` messages as fast as the server takes them, waiting for the PubAck of each thousandth only."""
        for number in range(count):
            if number % 1000 == 999 or number == count - 1:
                await self._jetstream.publish(subject_of(number), data, timeout=60)
            else:
                await self.client.publish(subject_of(number), data)


@asynccontextmanager
async def bare_bus(url: str) -> AsyncGenerator[BareBus]:
    client = Client()
    await client.connect(url)
    try:
        yield BareBus(client)
    finally:
        await client.close()


@asynccontextmanager
async def listening(bare: BareBus, subject: str) -> AsyncGenerator[asyncio.Queue[Msg]]:
    """Yield a queue of the core messages on `subject`."""
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await bare.client.subscribe(subject, cb=arrived.put)  # pyright: ignore[reportUnknownMemberType]
    await bare.client.flush()
    try:
        yield arrived
    finally:
        await subscription.unsubscribe()
