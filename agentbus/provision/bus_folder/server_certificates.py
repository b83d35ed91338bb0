"""Writes and renews the certificates of a bus folder: its private authority, and those of its servers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from agentbus.config.private_files import private_folder, write_private
from agentbus.errors import ConfigError
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.server_folder import ServerFolder, host
from agentbus.provision.certificates import Pair, new_authority, new_server_certificate
from agentbus.provision.folder_lock import locked

_AUTHORITY: Final = "agentbus private CA"


def new_private_authority(folder: Path) -> Pair:
    """Make a private authority, and write its certificate and key into a folder."""
    authority = new_authority(_AUTHORITY)
    private_folder(folder)
    write_pair(folder, "ca", authority)
    return authority


def with_loopback(hosts: Iterable[str]) -> tuple[str, ...]:
    """Add the loopback names to `hosts`, for clients on the same machine."""
    return tuple(dict.fromkeys((*hosts, "localhost", "127.0.0.1", "::1")))


def write_pair(folder: Path, name: str, pair: Pair) -> None:
    """Write a certificate and its key, replacing earlier ones."""
    write_private(folder / f"{name}-key.pem", pair.key, replace=True)
    write_private(folder / f"{name}.pem", pair.certificate, replace=True)


def write_certificate(authority: Pair, server: ServerFolder, hosts: Iterable[str]) -> None:
    """Write the certificate of a cluster member, which is also its client certificate for the others, and the CA."""
    assert server.member is not None, "only members of a cluster have a folder of their own"
    names = with_loopback((server.member.host, *map(host, hosts)))
    write_pair(server.path, "server", new_server_certificate(authority, names, peer=True))
    write_private(server.path / "ca.pem", authority.certificate, replace=True)


def renew_certificate(bus: BusFolder, hosts: Sequence[str]) -> None:
    """Sign a new certificate for each server with the bus's own authority.

    Args:
        hosts: names and addresses of the server; in a cluster, those that every server has besides its own.

    Raises:
        ConfigError: the bus has no authority of its own.
    """
    folder = bus.path / "tls"
    try:
        authority = Pair((folder / "ca.pem").read_bytes(), (folder / "ca-key.pem").read_bytes())
    except OSError:
        raise ConfigError(
            f"the bus in {bus.path} has no authority of its own; renew the certificate where it came from"
        ) from None
    with locked(bus.path):
        for server in bus.servers:
            if server.member is None:
                write_pair(folder, "server", new_server_certificate(authority, with_loopback(map(host, hosts))))
            else:
                write_certificate(authority, server, hosts)
