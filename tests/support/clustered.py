"""Three real servers on this machine, as `agentbus init --member` makes them, which can be killed and started again."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.setup import set_up
from agentbus.bus.topology import SECOND_NS, wanted_consumers
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.schema import CoordinatorNatsSection
from agentbus.errors import AgentBusError, BusUnavailableError
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.bus_folder.server_folder import Member
from agentbus.provision.nats_server import NatsServer, start_server
from support.free_ports import free_port
from support.harness import eventually, worker_toml
from support.installation import PLAN, credential_of

ELECTION_S = 120.0
"""How long servers that have lost one of them may take to agree again, also on a busy machine: 4 to 8 s on an idle one,
and as often as a candidate gets no time to ask for votes, as long again."""
_PAUSE_S = 0.2
_T = TypeVar("_T")


class Cluster:
    """The servers of one bus, by name."""

    def __init__(self, path: Path, folder: BusFolder) -> None:
        self.path = path
        self.folder = folder
        self.names = [server.name for server in self.folder.servers]
        self.running: dict[str, NatsServer] = {}
        self._busy = asyncio.Lock()

    # -- servers ------------------------------------------------------------------------------------------------

    async def start(self, *names: str) -> None:
        """Start servers, all of them unless some are named."""
        folders = {server.name: server for server in self.folder.servers}
        for name in names or self.names:
            self.running[name] = await start_server(store=self.path / name, config=folders[name].configuration)

    async def stop(self) -> None:
        for server in self.running.values():
            await server.stop()
        self.running.clear()

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.running.pop(name).kill()

    async def restart_after_kill(self, name: str, pause_s: float) -> None:
        """Kill a server, and start it again after a while."""
        self.kill(name)
        await asyncio.sleep(pause_s)
        await self.start(name)

    async def ready(self) -> None:
        """Wait until the servers agree on who leads them."""

        async def answers() -> bool:
            try:
                async with self.administrator() as bus:
                    return bool(await bus.api("INFO"))
            except AgentBusError:
                return False

        await eventually(answers, "the servers agree", timeout_s=ELECTION_S)

    async def leader(self, stream: str) -> str:
        """The server that leads a stream; empty while none does."""
        try:
            async with self.administrator() as bus:
                return str((await bus.api(f"STREAM.INFO.{stream}")).get("cluster", {}).get("leader") or "")
        except AgentBusError:
            return ""

    async def led_by(self, stream: str) -> str:
        """The server that leads a stream, once one does."""
        return str(await eventually(lambda: self.leader(stream), f"{stream} has a leader", timeout_s=ELECTION_S))

    async def meta_leader(self) -> str:
        """The server that leads JetStream as a whole; empty while none does."""
        for name, server in list(self.running.items()):
            found = await asyncio.to_thread(_monitored, self.path / name, server.pid)
            if leader := found.get("meta_cluster", {}).get("leader"):
                return str(leader)
        return ""

    # -- parties ------------------------------------------------------------------------------------------------

    def nats(self, party: str, *, first: int = 0) -> dict[str, str | Path]:
        """The keys of `[nats]` for one party, with the URLs of all servers, beginning at one of them."""
        urls = self.folder.url.split(",")
        urls = urls[first % 3 :] + urls[: first % 3]
        ca = self.folder.path / "tls" / "ca.pem"
        return {"url": ",".join(urls), "ca_file": ca, **credential_of(self.folder, party)}

    def settings(self, party: str, *, first: int = 0) -> ConnectionSettings:
        """How one party connects, first of all to one of the servers."""
        section = CoordinatorNatsSection.model_validate(self.nats(party, first=first))
        return connection_settings(section, agent=party, name=f"test {party}", reconnect_wait_s=0.1)

    @asynccontextmanager
    async def administrator(self) -> AsyncGenerator[Bus]:
        async with connect(self.settings(ADMINISTRATOR)) as bus:
            yield bus

    @asynccontextmanager
    async def coordinator(self, *, first: int = 0) -> AsyncGenerator[Coordinator]:
        async with connect(self.settings(subjects.COORDINATOR, first=first)) as bus:
            yield Coordinator(bus, subjects.COORDINATOR)

    async def set_up(self, *, replicas: int, lease_s: float) -> None:
        """Everything that the bus needs, with a short lease."""
        async with self.administrator() as bus:
            await set_up(bus, replicas=replicas)
            for agent in self.folder.agents:
                for wanted in wanted_consumers(agent):
                    short = {**wanted, "ack_wait": int(lease_s * SECOND_NS)}
                    await bus.create_consumer(subjects.TASKS_STREAM, wanted["durable_name"], short)
            await set_up(bus, self.folder.agents, replicas=replicas)

    def worker_toml(self, folder: Path, agent: str, *, first: int = 0, **sections: Any) -> Path:
        """The configuration of a worker that begins at one of the servers."""
        nats = self.nats(agent, first=first)
        return worker_toml(folder, str(nats.pop("url")), agent=agent, nats=nats, **sections)


async def once_led(ask: Callable[[], Awaitable[_T]]) -> _T:
    """What a request answers that is made again, as a program does, while the servers take long to elect a leader."""
    deadline = asyncio.get_running_loop().time() + ELECTION_S
    while True:
        try:
            return await ask()
        except BusUnavailableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_PAUSE_S)


def _monitored(store: Path, pid: int) -> dict[str, Any]:
    """What a server says of JetStream on its monitoring port."""
    for file in (store / "ports").glob(f"*_{pid}.ports"):
        [url] = json.loads(file.read_text(encoding="utf-8"))["monitoring"]
        try:
            with urllib.request.urlopen(f"{url}/jsz", timeout=2) as answer:
                return json.loads(answer.read())
        except OSError:
            return {}
    return {}


@asynccontextmanager
async def cluster(path: Path, agents: Iterable[str] = ("code",)) -> AsyncGenerator[Cluster]:
    """Three servers that agree, with nothing set up."""
    async with cluster_of(path, new_folder(path, agents)) as servers:
        yield servers


def new_folder(path: Path, agents: Iterable[str]) -> BusFolder:
    """Make the folder of a bus with three servers on this machine."""
    members = tuple(Member("127.0.0.1", free_port(), free_port()) for _ in range(3))
    return create(path / "bus", replace(PLAN, members=members, listen="127.0.0.1"), agents)


@asynccontextmanager
async def cluster_of(path: Path, folder: BusFolder) -> AsyncGenerator[Cluster]:
    """The servers of an existing folder."""
    servers = Cluster(path, folder)
    try:
        await servers.start()
        await servers.ready()
        yield servers
    finally:
        await asyncio.shield(servers.stop())
