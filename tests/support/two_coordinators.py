"""Coordinators with other ids than `main`, on a bus without accounts of their own."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from agentbus import Coordinator, connect
from agentbus.protocol.roles import Role
from agentbus.provision.nats_server import NatsServer


@asynccontextmanager
async def coordinator_of(server: NatsServer, name: str, role: Role | None = None) -> AsyncGenerator[Coordinator]:
    """A coordinator of that name; no permissions hold it."""
    async with connect(server.url) as connected:
        yield Coordinator(connected.bus, name, role)
