"""A server that a test takes away and brings back."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer, start_server
from support.free_ports import free_port


class Outage:
    """A server that can be taken away and brought back, and a coordinator that gets over it."""

    def __init__(self, server: NatsServer, store: Path, bus: Coordinator) -> None:
        self.server = server
        self.bus = bus
        self._store = store

    @property
    def url(self) -> str:
        return self.server.url

    def begin(self) -> None:
        self.server.kill()

    async def end(self) -> None:
        self.server = await start_server(store=self._store, port=int(self.server.url.rpartition(":")[2]))
        await self.bus.bus.wait_connected()


@asynccontextmanager
async def outage_of(store: Path) -> AsyncGenerator[Outage]:
    """A server on a bus that is set up; whatever became of it, it is gone afterwards."""
    server = await start_server(store=store, port=free_port())
    try:
        async with connect(server.url) as bus:
            await set_up(bus.bus)
            held = Outage(server, store, bus)
            try:
                yield held
            finally:
                server = held.server
    finally:
        await server.stop()
