"""Addresses of servers: `host:port`, and `[v6]:port` for IPv6, read strictly and written in one form."""

import ipaddress
import re
from typing import Final, NamedTuple

from agentbus.errors import ConfigError

MAX_PORT: Final = 65_535
_NAME: Final = re.compile(r"[\w.-]+")  # `_` for the names of containers, and letters of all languages


class Address(NamedTuple):
    """A host, without brackets, and a port. `str()` writes it as `read_address` reads it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """A host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def unbracketed(text: str) -> str:
    """A host without the brackets around an IPv6 address, for where no port follows and both forms are taken."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def read_address(text: str, *, default_port: int | None = None, lowest_port: int = 1) -> Address:
    """Read `host:port`. The host is given in lower case, and an IPv6 address keeps its zone id.

    Args:
        default_port: for a host without a port; without it, the port must be there.
        lowest_port: 0 where a port of 0 means a free one.

    Raises:
        ConfigError: it is none. Says what is wrong and quotes nothing: in a URL it may be a piece of a password.
    """
    host, port = _split(text)
    if port is None and default_port is None:
        raise ConfigError("the port is missing; write it as host:port")
    return Address(host, read_port(port, lowest_port) if port is not None else default_port or 0)


def read_port(text: str, lowest: int = 1) -> int:
    """Read the number of a port.

    Raises:
        ConfigError: it is none, or is out of range.
    """
    # Not int() alone: it takes signs, spaces, underscores and the digits of all languages.
    if not re.fullmatch(r"[0-9]{1,5}", text) or not lowest <= int(text) <= MAX_PORT:
        raise ConfigError(f"the port must be a number from {lowest} to {MAX_PORT}")
    return int(text)


def _split(text: str) -> tuple[str, str | None]:
    """The host, and what stands behind the colon after it, if there is one."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":"):
            raise ConfigError("an IPv6 address ends with ']', and only a port follows it, as in [::1]:4222")
        return _ipv6(inside), rest[1:] if rest else None
    host, colon, port = text.partition(":")
    if ":" in port:
        raise ConfigError("an IPv6 address must stand in brackets, as in [::1]:4222, and other hosts have no ':'")
    if not host:
        raise ConfigError("the host is missing; write it as host:port")
    if not _NAME.fullmatch(host):
        raise ConfigError("the name of a host has only letters, digits, '.', '-' and '_' in it, and no spaces")
    return host.lower(), port if colon else None


def _ipv6(text: str) -> str:
    address, percent, zone = text.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        raise ConfigError("only an IPv6 address stands in brackets, as in [::1]:4222") from None
    if percent and not _NAME.fullmatch(zone):
        raise ConfigError("the zone id after '%' is no name of a network interface, as in [fe80::1%eth0]:4222")
    return f"{address.lower()}{percent}{zone}"
