"""Makes a new bus in a folder, for `agentbus init`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentbus.config.addresses import Address
from agentbus.config.home import in_home
from agentbus.config.private_files import private_folder, write_private
from agentbus.config.storage_sizes import storage_size
from agentbus.errors import ConfigError
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.bundle import Auth
from agentbus.provision.bus_folder.accounts_conf import MAX_CONNECTIONS
from agentbus.provision.bus_folder.credentials import with_new_credential, write_administrator_toml
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.manifest import (
    NEWEST_LAYOUT,
    BusEntry,
    Manifest,
    PartyEntry,
    manifest_file,
    write_manifest,
)
from agentbus.provision.bus_folder.server_certificates import (
    new_private_authority,
    with_loopback,
    write_certificate,
    write_pair,
)
from agentbus.provision.bus_folder.server_folder import (
    DEFAULT_CONNECTIONS,
    DEFAULT_PORT,
    Member,
    Settings,
    check_members,
    configuration,
    host,
    server_folders,
)
from agentbus.provision.certificates import new_server_certificate
from agentbus.provision.folder_lock import locked
from agentbus.provision.given_certificate import check_certificate

DEFAULT_MONITORING_PORT: Final = 8222


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a new bus: one server, or a cluster of `members`.

    Without `certificate` and `key`, the bus gets a private certificate authority, which signs its certificates.

    Attributes:
        connections: to one server, of all parties.
        connections_of_agent: of one agent, or of another party.
    """

    hosts: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    port: int = DEFAULT_PORT
    monitoring_port: int = DEFAULT_MONITORING_PORT
    listen: str | None = None
    auth: Auth = "nkey"
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    store: Path | None = None
    max_memory: str = "256MiB"
    max_file: str = "10GiB"
    connections: int = DEFAULT_CONNECTIONS
    connections_of_agent: int = MAX_CONNECTIONS


def create(folder: Path, plan: Plan, agents: Iterable[str] = ()) -> BusFolder:
    """Make a bus in a folder, with an administrator, a coordinator, and credentials for each of `agents`.

    Raises:
        ConfigError: there is a bus in it already, or the settings contradict each other.
    """
    folder = in_home(folder).absolute()
    _check_path(folder)
    private_folder(folder)
    with locked(folder):
        made = _create(folder, plan)
        for agent in agents:
            made.add(agent)
    return made


def _check_path(folder: Path) -> None:
    """Refuse a folder whose path TOML or nats-server cannot take.

    Raises:
        ConfigError: it is not UTF-8, or holds a `=`.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{str(folder)!r} is not UTF-8, as TOML files must be; choose another folder") from None
    if "=" in str(folder):
        raise ConfigError(
            f"{folder} has a '=' in it: `nats-server --signal reload=FILE` takes no such path; choose another folder"
        )


def _create(folder: Path, plan: Plan) -> BusFolder:
    if manifest_file(folder).exists():
        raise ConfigError(f"there is a bus in {folder} already; it was left as it is")
    if plan.connections_of_agent > plan.connections:
        raise ConfigError(
            f"--connections-of-agent {plan.connections_of_agent} is more than the {plan.connections} of the server: "
            "raise --connections, too"
        )
    private_folder(folder / "credentials")
    hosts = tuple(dict.fromkeys(host(name) for name in plan.hosts)) or ("127.0.0.1",)
    ca = _cluster(folder, plan) if plan.members else _single(folder, plan, hosts)
    bus = BusEntry(
        version=NEWEST_LAYOUT,
        url=",".join(
            f"tls://{Address(*place)}"
            for place in [(one.host, one.port) for one in plan.members] or [(hosts[0], plan.port)]
        ),
        members=tuple(map(str, plan.members)),
        auth=plan.auth,
        ca=ca,
        max_memory=storage_size(plan.max_memory),
        max_file=storage_size(plan.max_file),
        max_connections=plan.connections_of_agent,
    )
    manifest = Manifest(bus=bus, party={})
    for name in (ADMINISTRATOR, subjects.COORDINATOR):
        manifest = with_new_credential(folder, manifest, name, PartyEntry())
    write_administrator_toml(folder, manifest)
    write_manifest(folder, manifest, replace=False)
    return BusFolder(folder)


def _single(folder: Path, plan: Plan, hosts: tuple[str, ...]) -> Path | None:
    """Write the configuration of the only server; returns the CA that clients must be given, if any."""
    certificate, key, ca = _certificates(folder, plan, hosts)
    [server] = server_folders(folder, ())
    default = "0.0.0.0" if plan.hosts else "127.0.0.1"  # noqa: S104  # the operator named a host, so other machines are to connect
    listen = host(plan.listen) if plan.listen else default
    store = in_home(plan.store).absolute() if plan.store else folder / "jetstream"
    settings = Settings(
        listen,
        plan.port,
        plan.monitoring_port,
        certificate,
        key,
        store,
        plan.max_memory,
        plan.max_file,
        plan.connections,
    )
    write_private(server.configuration, configuration(server, settings), replace=True)
    return ca


def _cluster(folder: Path, plan: Plan) -> Path:
    """Write a folder for each server of a cluster; returns the CA that clients must be given."""
    check_members(plan.members)
    if plan.certificate or plan.key or plan.ca:
        raise ConfigError(
            "the servers of a cluster need certificates of the bus's own authority, also for each other; "
            "leave out --cert, --key and --ca"
        )
    authority = new_private_authority(folder / "tls")
    private_folder(folder / "servers")
    for server in server_folders(folder, plan.members):
        assert server.member is not None, "every server of a cluster is a member"
        private_folder(server.path)
        write_certificate(authority, server, plan.hosts)
        settings = Settings(
            host(plan.listen) if plan.listen else "0.0.0.0",  # noqa: S104  # the other servers are on other machines
            server.member.port,
            plan.monitoring_port,
            Path("server.pem"),
            Path("server-key.pem"),
            plan.store or Path("jetstream"),
            plan.max_memory,
            plan.max_file,
            plan.connections,
        )
        write_private(server.configuration, configuration(server, settings, plan.members), replace=True)
    return folder / "tls" / "ca.pem"


def _certificates(folder: Path, plan: Plan, hosts: tuple[str, ...]) -> tuple[Path, Path, Path | None]:
    """Return the server's certificate and key, and the CA that clients must be given, if any."""
    given = {"--cert": plan.certificate, "--key": plan.key, "--ca": plan.ca}
    if plan.certificate is None or plan.key is None:
        if any(given.values()):
            raise ConfigError("--cert and --key go together, and --ca goes with them")
        tls = folder / "tls"
        authority = new_private_authority(folder / "tls")
        write_pair(tls, "server", new_server_certificate(authority, with_loopback(hosts)))
        return tls / "server.pem", tls / "server-key.pem", tls / "ca.pem"
    for option, path in given.items():
        if path is not None and not path.is_file():
            raise ConfigError(f"{option}: {path} does not exist")
    check_certificate(plan.certificate, plan.key, hosts[0])
    return plan.certificate.absolute(), plan.key.absolute(), plan.ca.absolute() if plan.ca else None
