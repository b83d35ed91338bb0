"""Runs a bus with permissions: from the shipped sample, or as `agentbus init` makes it."""

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.setup import set_up, set_up_coordinators
from agentbus.bus.topology import SECOND_NS, wanted_consumers, wanted_streams
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.schema import CoordinatorNatsSection
from agentbus.protocol import subjects
from agentbus.protocol.accounts import LAYOUT_WITH_INPUTS, LAYOUT_WITH_LEDGERS_APART
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.protocol.roles import Role
from agentbus.provision.bundle import sign_in
from agentbus.provision.bus_folder import manifest
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import Plan, create
from agentbus.provision.certificates import new_authority, new_server_certificate
from agentbus.provision.join import AgentCommand
from agentbus.provision.nats_server import NatsServer, run_server
from support.free_ports import free_port
from support.harness import BOUND_S, FAKE_AGENT, ROOT, worker_toml

CONF = ROOT / "config" / "nats-server.conf"
PLAN = Plan(monitoring_port=0, max_memory="64MiB", max_file="1GiB")
FAKE = AgentCommand((sys.executable, str(FAKE_AGENT), "{input}"), "argv")


class Installed(ABC):
    """A running bus, and the settings with which each party connects."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.port = int(server.url.rpartition(":")[2])

    @abstractmethod
    def nats(self, name: str, *, port: int | None = None) -> dict[str, str | Path]:
        """Return the keys of `[nats]` for one party."""

    def settings(self, name: str, *, port: int | None = None) -> ConnectionSettings:
        """Return the connection settings of one party."""
        section = CoordinatorNatsSection.model_validate(self.nats(name, port=port))
        return connection_settings(section, agent=name, name=f"test {name}", reconnect_wait_s=0.05)

    @asynccontextmanager
    async def coordinator(self, name: str, role: Role | None = None) -> AsyncGenerator[Coordinator]:
        async with connect(self.settings(name)) as bus:
            yield Coordinator(bus, name, role)

    def worker_toml(self, folder: Path, agent: str, **worker: int) -> Path:
        nats = self.nats(agent)
        return worker_toml(folder, str(nats.pop("url")), agent=agent, nats=nats, worker=worker)

    def violations(self) -> list[str]:
        """Return what the server has refused so far."""
        return [line for line in self.server.log.read_text(encoding="utf-8").splitlines() if "Violation" in line]


async def _set_up(bus: Bus, agents: Iterable[str], lease_s: int = 1, coordinators: Sequence[str] = ()) -> None:
    """Set a bus up for its agents, whose leases last one second unless a test wants longer ones."""
    await set_up(bus)
    await set_up_coordinators(bus, coordinators)
    for agent in agents:
        for wanted in wanted_consumers(agent):
            short = {**wanted, "ack_wait": lease_s * SECOND_NS}
            await bus.create_consumer(subjects.TASKS_STREAM, wanted["durable_name"], short)
    found = await set_up(bus, list(agents))
    assert {item.outcome for item in found if item.kind == "consumer"} == {"different"}  # only in the lease
    assert {item.outcome for item in found if item.name.startswith("OBJ_")} == {"made"}


async def outcome_of(coordinator: Coordinator, agent: str) -> str:
    """Give an agent a task, and return the state that it settles in."""
    task = await coordinator.publish(agent, "say:done", task_type="test")
    return (await coordinator.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state


# -- the sample -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """A CA, and a certificate that it gave to the server on 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    found = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server-key.pem")
    authority = new_authority("Test CA")
    server = new_server_certificate(authority, ["127.0.0.1"])
    found.ca.write_bytes(authority.certificate)
    found.cert.write_bytes(server.certificate)
    found.key.write_bytes(server.key)
    return found


def password(user: str) -> str:
    return f"own-{user}-k3v9"


def shipped_for(folder: Path, certificates: Certificates) -> Path:
    """Write the shipped file with other ports, store, passwords and certificate paths, and nothing else changed."""
    text = CONF.read_text(encoding="utf-8")
    for old, new in {
        '"127.0.0.1:7422"': '"127.0.0.1:-1"',
        '"127.0.0.1:8222"': '"127.0.0.1:-1"',
        '"/data/jetstream"': f'"{folder / "jetstream"}"',
        '"/etc/agentbus/tls/server-cert.pem"': f'"{certificates.cert}"',
        '"/etc/agentbus/tls/server-key.pem"': f'"{certificates.key}"',
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    text, changed = re.subn(r'"CHANGE-ME-(\w+)"', lambda found: f'"{password(found[1])}"', text)
    assert changed == 4
    path = folder / "nats-server.conf"
    path.write_text(text, encoding="utf-8")
    return path


class Sample(Installed):
    """A server that runs from the shipped file, with its users."""

    def __init__(self, server: NatsServer, certificates: Certificates) -> None:
        super().__init__(server)
        self.ca = certificates.ca

    def url(self, user: str, *, port: int | None = None) -> str:
        return f"tls://agent-{user}:{password(user)}@127.0.0.1:{port or self.port}"

    def nats(self, name: str, *, port: int | None = None) -> dict[str, str | Path]:
        return {"url": self.url(name, port=port), "ca_file": self.ca}


@asynccontextmanager
async def sample_bus(path: Path, certificates: Certificates) -> AsyncGenerator[Sample]:
    """Run the shipped server with the agents code and doc."""
    config = shipped_for(path, certificates)
    async with run_server(store=path / "nats", config=config) as server:
        bus = Sample(server, certificates)
        async with connect(bus.settings(ADMINISTRATOR)) as administrator:
            await _set_up(administrator, ("code", "doc"))
        yield bus


# -- as `agentbus init` makes it --------------------------------------------------------------------------------


class OwnBus(Installed):
    """A bus that `agentbus init` made."""

    def __init__(self, server: NatsServer, folder: BusFolder) -> None:
        super().__init__(server)
        self.folder = folder

    def nats(self, name: str, *, port: int | None = None) -> dict[str, str | Path]:
        url, ca = f"tls://127.0.0.1:{port or self.port}", self.folder.path / "tls" / "ca.pem"
        return {"url": url, "ca_file": ca, **credential_of(self.folder, name)}


def credential_of(folder: BusFolder, name: str) -> dict[str, str | Path]:
    """Return the keys of `[nats]` that name the credential of one party of a bus with nkeys."""
    second = folder.tasks_secret_file if name == ADMINISTRATOR else None
    return sign_in("nkey", name, folder.secret_file(name), second)


def _make_older(folder: Path, layout: int) -> None:
    """Make the folder one of an older layout, as an earlier version wrote it."""
    file = folder / "bus.toml"
    text = file.read_text(encoding="utf-8")
    newest = f"version = {manifest.NEWEST_LAYOUT}"
    assert newest in text
    file.write_text(text.replace(newest, f"version = {layout}"), encoding="utf-8")
    manifest.write_manifest(folder, manifest.read_manifest(folder), replace=True)
    if layout < LAYOUT_WITH_INPUTS:
        accounts = folder / "accounts.conf"
        lines = accounts.read_text(encoding="utf-8").splitlines(keepends=True)
        accounts.write_text("".join(line for line in lines if ".place.*" not in line), encoding="utf-8")


@asynccontextmanager
async def own_bus(
    path: Path,
    agents: Iterable[str] = ("code", "doc"),
    *,
    may_task: dict[str, list[str]] | None = None,
    coordinators: dict[str, tuple[Role, list[str] | None]] | None = None,
    lease_s: int = 1,
    layout: int = manifest.NEWEST_LAYOUT,
) -> AsyncGenerator[OwnBus]:
    """Run a bus as `agentbus init` makes it.

    Args:
        layout: one after the first four; before `LAYOUT_WITH_LEDGERS_APART` there is one ledger of all.
        may_task: further agents, with those that they may give tasks to.
        coordinators: their roles, with the agents of a member.
    """
    folder = create(path / "bus", replace(PLAN, port=free_port()), agents)
    for agent, others in (may_task or {}).items():
        folder.add(agent, others)
    for name, (role, only) in (coordinators or {}).items():
        folder.add_coordinator(name, role, only)
    if layout != manifest.NEWEST_LAYOUT:
        _make_older(folder.path, layout)
    async with run_server(store=path / "nats", config=folder.servers[0].configuration) as server:
        bus = OwnBus(server, folder)
        async with connect(bus.settings(ADMINISTRATOR)) as administrator:
            if layout < LAYOUT_WITH_LEDGERS_APART:
                [ledger] = [one.config for one in wanted_streams() if one.name == subjects.STATE_STREAM]
                room = 3 * (await administrator.account_info()).max_storage_bytes // 10
                await administrator.api(f"STREAM.CREATE.{subjects.STATE_STREAM}", {**ledger, "max_bytes": room})
            await _set_up(administrator, folder.agents, lease_s, coordinators=folder.with_ledgers)
        yield bus
