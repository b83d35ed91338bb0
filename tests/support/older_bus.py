"""A bus of the older layout, as an earlier version made it and set it up."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.nats_server import run_server
from support.free_ports import free_port
from support.installation import OwnBus
from support.old_version import OldVersion

AGENTS = ("code", "doc")


async def make_older_bus(path: Path, old: OldVersion) -> Path:
    """Make a bus with its streams; returns its folder, whose server does not run."""
    folder = path / "bus"
    named = [word for agent in AGENTS for word in ("--agent", agent)]
    made = await old.cli("init", str(folder), *named, "--port", str(free_port()), "--monitoring-port", "0")
    assert made.code == 0, made.err
    async with run_server(store=path / "nats", config=folder / "nats-server.conf"):
        ran = await old.cli("setup", "--config", str(folder / "admin.toml"), *named)
        assert ran.code == 0, ran.err
    return folder


@asynccontextmanager
async def serving(folder: Path, path: Path) -> AsyncGenerator[OwnBus]:
    """Run the server of a bus folder."""
    async with run_server(store=path / "nats", config=folder / "nats-server.conf") as server:
        yield OwnBus(server, BusFolder(folder))
