"""The settings of the server over HTTP: where it listens, and what a request needs. Checked before it serves."""

import ipaddress
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentbus.config.addresses import Address, bracketed, read_address
from agentbus.config.home import in_home
from agentbus.errors import ConfigError

PATH: Final = "/mcp"
MAX_SESSIONS: Final = 1_000
IDLE_S: Final = 1_800
STALLED_S: Final = 60
HEAD_S: Final = 10
"""How long the head of a request may take, from the connection or the answer before it."""
BODY_S: Final = 120
"""How long a body may take: the largest task over 0.6 Mbit/s."""
_MIN_TOKEN_CHARS: Final = 16
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a request may take to arrive, and how many connections there may be."""

    head_s: float
    body_s: float
    connections: int
    connections_of_one_address: int


@dataclass(frozen=True, slots=True)
class PageSettings:
    """How a page is served: whether it only shows, and where it lies on its server, as `/ui`."""

    read_only: bool = False
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where one server listens, and which requests it serves. `repr()` does not show the token."""

    address: Address
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_sessions: int = MAX_SESSIONS
    idle_s: float = IDLE_S
    stalled_s: float = STALLED_S
    head_s: float = HEAD_S
    body_s: float = BODY_S
    connections_of_one_address: int | None = None
    named_tokens: bool = False
    """Whether there are tokens of another file than the one of `token`."""

    def serves_host(self, host: Address) -> bool:
        """Whether this server has that name: a loopback name, its address, or one in `hosts`, there with its port."""
        if host.host in (*_LOOPBACK, self.address.host) and not _is_wildcard(host.host):
            return True
        names = [read_address(name, default_port=0) for name in self.hosts]
        return any(name.host == host.host and name.port in (0, host.port) for name in names)

    def serves_origin(self, origin: str) -> bool:
        """Whether pages from there may use this server: none at all (""), of this machine, or from one in `origins`."""
        origin = origin.lower()  # the names of schemes and hosts have no case
        if origin in ("", *self.origins):
            return True
        scheme, _, host = origin.partition("://")
        try:
            return scheme == "http" and origin.isascii() and read_address(host, default_port=0).host in _LOOPBACK
        except ConfigError:
            return False

    def bounds(self, connections: int) -> Bounds:
        """The bounds of a server with at most `connections`; unless told otherwise, one address has half of them."""
        of_one = self.connections_of_one_address or max(1, connections // 2)
        return Bounds(self.head_s, self.body_s, connections, of_one)

    def listen(self) -> socket.socket:
        """Open the listening socket. On Linux, a client that reads nothing for `stalled_s` is disconnected.

        Raises:
            ConfigError: the address cannot be used, or it is not loopback and there is no token.
        """
        try:
            family, kind, protocol, _, resolved = socket.getaddrinfo(
                self.address.host, self.address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            local = ipaddress.ip_address(str(resolved[0]).partition("%")[0]).is_loopback
            if not local and self.token is None and not self.named_tokens:
                raise ConfigError(
                    f"--http {self.address} can be reached from other machines: name a file with a token with "
                    "--token-file, or one with named tokens with --tokens, or listen on 127.0.0.1"
                )
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if sys.platform == "linux":
                    # Connections inherit it. Without it, an answer to a client that never reads would stay in memory.
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.stalled_s * 1000))
                listener.bind(resolved)
                listener.listen(_BACKLOG)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise ConfigError(f"cannot listen on {self.address}: {error.strerror or error}") from None
        return listener

    def url(self, listener: socket.socket) -> str:
        """The URL of the listening server for clients on this machine."""
        host, port = listener.getsockname()[:2]
        if _is_wildcard(host):
            host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
        return f"http://{bracketed(host)}:{port}{PATH}"


def read_token(path: Path) -> tuple[str, Sequence[str]]:
    """Read a token from a file; returns warnings for the operator with it.

    Raises:
        ConfigError: the file cannot be read, or holds no usable token.
    """
    from agentbus.config.connection_settings import read_secret  # noqa: PLC0415  # `agentbus-mcp --help` needs none of it
    from agentbus.config.loading import exposure  # noqa: PLC0415  # `agentbus-mcp --help` needs none of it

    path = in_home(path)
    token = read_secret(path)
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"the token in {path} has characters that a header cannot carry: use letters and digits")
    if len(token) < _MIN_TOKEN_CHARS:
        raise ConfigError(
            f"the token in {path} is short enough to be guessed; it must have at least {_MIN_TOKEN_CHARS} characters, "
            "for instance those of: openssl rand -hex 32"
        )
    return token, list(exposure(path))


def listen_address(text: str) -> Address:
    """Read the address for `--http`; port 0 picks a free one.

    Raises:
        ValueError: the text is not an address.
    """
    try:
        return _ascii_address(text, lowest_port=0)
    except ConfigError as error:
        raise ValueError(
            f"is not HOST:PORT, such as 127.0.0.1:8765 or [::1]:8765: {error}; port 0 picks a free one"
        ) from None


def host_name(text: str) -> str:
    """Check a name for `--allowed-host`: a host, with or without a port.

    Raises:
        ValueError: the text is not a host.
    """
    try:
        _ascii_address(text, default_port=0)
    except ConfigError as error:
        raise ValueError(f"is not a host, such as bus.example.com or bus.example.com:8443: {error}") from None
    return text.lower()


def origin(text: str) -> str:
    """Check an origin for `--allowed-origin`.

    Raises:
        ValueError: the text is not an origin.
    """
    try:
        scheme, _, rest = text.partition("://")
        if scheme not in ("http", "https"):
            raise ConfigError("it begins with neither http:// nor https://")
        _ascii_address(rest, default_port=0)
    except ConfigError as error:
        raise ValueError(
            f"is not an origin, such as https://app.example.com: a scheme and a host, no path: {error}"
        ) from None
    return text.lower()


def _ascii_address(text: str, **ports: int) -> Address:
    """Read an address in the form that headers have: names of other letters stand there in another one."""
    if not text.isascii():
        raise ConfigError("a header has only letters of ASCII; write the name as xn--…")
    return read_address(text, **ports)


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::")  # noqa: S104  # compared, not bound
