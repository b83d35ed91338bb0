"""Writes the configuration of one nats-server of a bus: a single server, or a member of a cluster.

A member of a cluster has a folder of its own, which the operator copies to its machine. So the paths in its
configuration are relative, and the operator starts the server in that folder.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentbus.config.addresses import Address, read_address, read_port, unbracketed
from agentbus.errors import ConfigError
from agentbus.provision.conf_text import quoted, quoted_list

DEFAULT_PORT: Final = 7422
DEFAULT_CLUSTER_PORT: Final = 6222
DEFAULT_CONNECTIONS: Final = 4096
"""To one server, of all parties together: a hundred machines with some workers each."""
CLUSTER_SIZES: Final = (3, 5)
_MONITORING: Final = re.compile(r'^http:\s*"?([^"\s]+)"?\s*$', re.MULTILINE)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def host(text: str) -> str:
    """Normalise the name or address of a host.

    Raises:
        ConfigError: the text is neither.
    """
    try:
        return str(ipaddress.ip_address(unbracketed(text)))
    except ValueError:
        if not _HOST.fullmatch(text):
            raise ConfigError(f"{text!r} is neither the name nor the address of a host") from None
        return text.lower()


@dataclass(frozen=True, slots=True)
class Member:
    """One server of a cluster, with its ports for clients and for the other servers."""

    host: str
    port: int = DEFAULT_PORT
    cluster_port: int = DEFAULT_CLUSTER_PORT

    def __str__(self) -> str:
        return f"{Address(self.host, self.port)}:{self.cluster_port}"


def read_member(text: str, *, port: int = DEFAULT_PORT, cluster_port: int = DEFAULT_CLUSTER_PORT) -> Member:
    """Parse `HOST`, `HOST:PORT` or `HOST:PORT:CLUSTER_PORT`; an IPv6 address is in brackets if a port follows.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        return _member(text, port, cluster_port)
    except ConfigError as error:
        raise ConfigError(
            f"{text!r} is no member of a cluster: {error}; write it as HOST or HOST:PORT:CLUSTER_PORT"
        ) from None


def _member(text: str, port: int, cluster_port: int) -> Member:
    if _is_address(text):
        return Member(_reachable(text), port, cluster_port)  # no port follows, so there is no need for brackets
    first, _, last = text.rpartition(":")
    if ":" in first.rpartition("]")[2]:
        text, cluster_port = first, read_port(last)
    where = read_address(text, default_port=port)
    return Member(_reachable(where.host), where.port, cluster_port)


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _reachable(name: str) -> str:
    if "%" in name:
        raise ConfigError("a zone id means something on one machine only; name an address that the others reach")
    return host(name)


def check_members(members: Sequence[Member]) -> None:
    """Check that these members make a cluster.

    Raises:
        ConfigError: there are not three or five of them, or two have the same address and port.
    """
    if len(members) not in CLUSTER_SIZES:
        raise ConfigError(
            f"a cluster has three members or five, not {len(members)}: more than half of them must be up, "
            "so two outlast no loss, and four no more than three"
        )
    reached = [(one.host, port) for one in members for port in (one.port, one.cluster_port)]
    for address in reached:
        if reached.count(address) > 1:
            raise ConfigError(f"two servers cannot both have {Address(*address)}; each needs two ports of its own")


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """The files of one server."""

    name: str
    path: Path
    member: Member | None = None

    @property
    def configuration(self) -> Path:
        """The configuration file."""
        return self.path / "nats-server.conf"

    @property
    def pid_file(self) -> Path:
        """The file into which the running server writes its process id."""
        return self.path / "nats-server.pid"

    @property
    def accounts(self) -> Path:
        """The part of the configuration with the accounts of the parties."""
        return self.path / "accounts.conf"


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in a configuration that differ from server to server, or from bus to bus."""

    listen: str
    port: int
    monitoring_port: int
    certificate: Path
    key: Path
    store: Path
    max_memory: str
    max_file: str
    connections: int = DEFAULT_CONNECTIONS


def monitoring_address(server: ServerFolder) -> Address | None:
    """Return where a single server answers questions about itself; None if its configuration does not say it plainly.

    The operator may have changed the configuration. A member of a cluster runs on another machine.
    """
    try:
        text = server.configuration.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = _MONITORING.search(text)
    if found is None or server.member is not None:
        return None
    try:
        return read_address(found[1])
    except ConfigError:  # a free port, which the server has chosen
        return None


def server_folders(bus: Path, members: Sequence[Member]) -> tuple[ServerFolder, ...]:
    """Return the folder of the only server of a bus, or of each member of its cluster."""
    names = [(f"agentbus-{number}", one) for number, one in enumerate(members, 1)]
    return tuple(ServerFolder(name, bus / "servers" / name, one) for name, one in names) or (
        ServerFolder("agentbus", bus),
    )


def configuration(server: ServerFolder, settings: Settings, members: Sequence[Member] = ()) -> str:
    """Return the configuration of a server, with a `cluster` block if it is a member of one."""
    pid_file = server.pid_file if server.member is None else Path(server.pid_file.name)
    values = {
        "name": server.name,
        "listen": str(Address(settings.listen, settings.port)),
        "monitoring": str(Address("127.0.0.1", settings.monitoring_port or -1)),
        "pid_file": pid_file,
        "certificate": settings.certificate,
        "key": settings.key,
        "store": settings.store,
    }
    texts = {name: quoted(value) for name, value in values.items()}
    text = _CONFIGURATION.format(
        **texts, max_memory=settings.max_memory, max_file=settings.max_file, connections=settings.connections
    )
    if server.member is None:
        return text
    routes = [f"tls://{Address(one.host, one.cluster_port)}" for one in members if one != server.member]
    listen = quoted(str(Address(settings.listen, server.member.cluster_port)))
    return f"{_START_HERE}{text}\n" + _CLUSTER.format(listen=listen, routes=quoted_list(routes))


_START_HERE: Final = "# Start the server in this folder: the paths below are relative to it.\n"

_CONFIGURATION: Final = """\
# nats-server for agentbus. This file was written once and is yours to change. It includes accounts.conf, which
# `agentbus agent add`, `remove` and `rotate` write anew.

server_name: {name}
listen: {listen}
pid_file: {pid_file}

# /healthz, /varz, /jsz: not for the network, they ask for no password.
http: {monitoring}

# The largest message. A result embeds its task, so a task may have a little less.
max_payload: 8MB
max_connections: {connections}

tls {{
  cert_file: {certificate}
  key_file: {key}
  min_version: "1.2"
}}

jetstream {{
  store_dir: {store}
  max_memory_store: {max_memory}
  max_file_store: {max_file}
  # A message is acknowledged once it is on the disk, not up to two minutes before.
  sync_interval: always
}}

include "accounts.conf"
"""

_CLUSTER: Final = """\
cluster {{
  name: "agentbus"
  listen: {listen}
  routes: {routes}
  # Clients know all servers from their configuration. What a server says of the others are addresses that it sees,
  # for which the others may have no certificate.
  no_advertise: true
  # Servers let each other in by a certificate of the authority of this bus, and by nothing else.
  tls {{
    cert_file: "server.pem"
    key_file: "server-key.pem"
    ca_file: "ca.pem"
    verify: true
  }}
}}
"""
