"""The servers of a storm: one that can be cut off from its workers, or a cluster that loses its leaders."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.setup import set_up
from agentbus.bus.topology import SECOND_NS, wanted_consumers
from agentbus.errors import ServerBinaryError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.nats_server import NatsServer, start_server
from support.clustered import ELECTION_S, Cluster, new_folder
from support.harness import eventually
from system.chaos.faults import FaultKind
from system.chaos.fleet import Events
from system.chaos.link import Link
from system.chaos.plan import Plan
from system.chaos.users import RIGHTS, AccountForEach, OneAccount, Right

_RETRY_S = 0.2


class Ground(ABC):
    """A bus and its servers."""

    def __init__(self, plan: Plan, folder: Path, events: Events) -> None:
        self.plan = plan
        self.folder = folder
        self.events = events
        self.links: dict[str, Link] = {}
        self.deaths: list[float] = []
        self._one_at_a_time = asyncio.Lock()

    @abstractmethod
    async def open(self) -> None:
        """Start the servers and links."""

    @abstractmethod
    async def close(self) -> None:
        """End the servers and links."""

    @abstractmethod
    def coordinator(self) -> AbstractAsyncContextManager[Coordinator]:
        """Connect as the publisher of the tasks."""

    @abstractmethod
    def administrator(self) -> AbstractAsyncContextManager[Bus]:
        """Connect as the administrator, who sets up the bus and checks it at the end."""

    @abstractmethod
    def nats(self, worker: str) -> dict[str, str | Path]:
        """How a worker connects: the keys of `[nats]`."""

    async def refuse(self, right: Right, workers: Sequence[str], length_s: float) -> None:
        """Take a right from workers for a while."""
        raise NotImplementedError(f"{type(self).__name__} takes no {right} away")

    @abstractmethod
    async def _strike(self, kind: FaultKind, pause_s: float) -> None: ...

    async def strike(self, kind: FaultKind, pause_s: float) -> None:
        """Kill a server and start it again; never two at the same time."""
        async with self._one_at_a_time:
            with self.events.troubles.lasting("server", ""):
                await self._strike(kind, pause_s)

    async def prepare(self) -> None:
        """Streams, consumers with a short lease, buckets."""
        async with self.administrator() as bus:
            await set_up(bus, replicas=self.plan.copies)
            for agent in self.plan.all_agents:
                for wanted in wanted_consumers(agent):
                    short = {**wanted, "ack_wait": int(self.plan.lease_s * SECOND_NS)}
                    await bus.create_consumer(subjects.TASKS_STREAM, wanted["durable_name"], short)
            await set_up(bus, self.plan.all_agents, replicas=self.plan.copies)


class OneServer(Ground):
    """A server of its own, which each worker reaches over a link, with what its agent may do."""

    async def open(self) -> None:
        self._denied: dict[str, Sequence[str]] = {}
        self._users = (OneAccount if self.plan.one_account else AccountForEach)(self.plan.workers, self.folder)
        self._server: NatsServer = await self._start()
        self.links = {name: Link(self._users.port, name, self.events.troubles) for name in self.plan.workers}
        for link in self.links.values():
            await link.open()

    async def _start(self) -> NatsServer:
        return await start_server(store=self.folder / "nats", config=self._users.configuration)

    async def close(self) -> None:
        for link in self.links.values():
            await link.close()
        await self._server.stop()

    @asynccontextmanager
    async def coordinator(self) -> AsyncGenerator[Coordinator]:
        async with connect(self._users.settings(subjects.COORDINATOR)) as bus:
            yield Coordinator(bus, subjects.COORDINATOR)

    def administrator(self) -> AbstractAsyncContextManager[Bus]:
        return connect(self._users.settings(ADMINISTRATOR))

    def nats(self, worker: str) -> dict[str, str | Path]:
        return self._users.nats(worker, self.links[worker].port)

    async def refuse(self, right: Right, workers: Sequence[str], length_s: float) -> None:
        whose = self._users.together_with(workers)
        with ExitStack() as lasting:
            async with self._one_at_a_time:
                if right == "writing the ledger":
                    lasting.enter_context(self.events.troubles.lasting("refusal", *whose))
                await self._permit(dict.fromkeys(whose, (RIGHTS[right],)))
            self.events.note("rights", f"{right} of {' '.join(whose)}, for {length_s:.1f} s")
            await asyncio.sleep(length_s)
            async with self._one_at_a_time:
                await self._permit(dict.fromkeys(whose, ()))
            self.events.note("restored", f"{right} of {' '.join(whose)}")

    async def _permit(self, denied: Mapping[str, Sequence[str]]) -> None:
        """Have the server deny subjects to workers, besides what it denies to others."""
        self._denied |= denied
        told = self._reloads()
        self._users.deny(self._denied)
        self._server.reload()
        await eventually(lambda: self._reloads() > told, "the server has read its configuration")

    def _reloads(self) -> int:
        return self._server.log.read_bytes().count(b"Reloaded server configuration")

    async def _strike(self, kind: FaultKind, pause_s: float) -> None:
        assert kind == "server", "it leads everything"
        self.events.note("server", f"pid {self._server.pid}, away for {pause_s:.1f} s")
        self.deaths.append(time.time())
        self._server.kill()
        await asyncio.sleep(pause_s)
        while True:
            try:
                self._server = await self._start()
                break
            except ServerBinaryError as error:  # an outgoing connection has the port for a moment
                self.events.note("trouble", str(error))
                await asyncio.sleep(_RETRY_S)
        self.events.note("up", f"pid {self._server.pid}")


class ThreeServers(Ground):
    """A cluster as `agentbus init --member` makes it, with TLS and an account for each party."""

    async def open(self) -> None:
        self._ledgers = cycle(self.plan.all_agents)
        self._cluster = Cluster(self.folder, new_folder(self.folder, self.plan.all_agents))
        await self._cluster.start()
        await self._cluster.ready()

    async def close(self) -> None:
        await self._cluster.stop()

    def coordinator(self) -> AbstractAsyncContextManager[Coordinator]:
        return self._cluster.coordinator()

    def administrator(self) -> AbstractAsyncContextManager[Bus]:
        return self._cluster.administrator()

    def nats(self, worker: str) -> dict[str, str | Path]:
        agent = self.plan.workers[worker]
        return self._cluster.nats(agent, first=self.plan.all_agents.index(agent))

    async def _strike(self, kind: FaultKind, pause_s: float) -> None:
        stream = self._led(kind)
        name = await (self._cluster.led_by(stream) if stream else self._meta_leader())
        self.events.note("server", f"{name}, the leader of {stream or 'JetStream'}, away for {pause_s:.1f} s")
        self.events.note(f"leader of {kind}", name)
        self.deaths.append(time.time())
        self._cluster.kill(name)
        await asyncio.sleep(pause_s)
        while True:
            try:
                await self._cluster.start(name)
                break
            except ServerBinaryError as error:  # an outgoing connection has a port for a moment
                self.events.note("trouble", str(error))
                await asyncio.sleep(_RETRY_S)
        self.events.note("up", name)
        # Without a leader no lease is renewed, whatever became of the server.
        await self._meta_leader()
        for led in (subjects.TASKS_STREAM, subjects.RESULTS_STREAM, *map(ledger_of, self.plan.all_agents)):
            await self._cluster.led_by(led)

    async def _meta_leader(self) -> str:
        return str(await eventually(self._cluster.meta_leader, "JetStream has a leader", timeout_s=ELECTION_S))

    def _led(self, kind: FaultKind) -> str:
        """Whose leader a fault kills: that of a stream, of the ledgers one after the other; empty for JetStream."""
        if kind == "ledger":
            return ledger_of(next(self._ledgers))
        return {"tasks": subjects.TASKS_STREAM, "results": subjects.RESULTS_STREAM}.get(kind, "")
