"""The settings of the server over HTTP: where it listens, and what a request needs. Checked before it serves."""

import ipaddress
import re
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentbus.errors import ConfigError

PATH: Final = "/mcp"
MAX_SESSIONS: Final = 1_000
IDLE_S: Final = 1_800
STALLED_S: Final = 60
_MIN_TOKEN_CHARS: Final = 16
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_NAME: Final = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, as `--http` has them."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `HOST:PORT`; an IPv6 address stands in brackets, and port 0 picks a free one.

        Raises:
            ValueError: the text is not an address.
        """
        found = re.fullmatch(rf"{_NAME}:(\d{{1,5}})", text)
        if found is None or int(found[2]) > 65_535:
            raise ValueError("is not HOST:PORT, such as 127.0.0.1:8765 or [::1]:8765; port 0 picks a free one")
        return cls(found[1].strip("[]"), int(found[2]))

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


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

    @property
    def allowed_hosts(self) -> list[str]:
        """The values of `Host` that are served: the loopback names, the address, and the names in `hosts`."""
        own = () if _is_wildcard(self.address.host) else (_bracketed(self.address.host),)
        return [value for name in (*_LOOPBACK, *own, *self.hosts) for value in _with_any_port(name)]

    @property
    def allowed_origins(self) -> list[str]:
        """The values of `Origin` that are served: pages of this machine, and those in `origins`."""
        return [*(value for name in _LOOPBACK for value in _with_any_port(f"http://{name}")), *self.origins]

    def listen(self) -> socket.socket:
        """Open the listening socket. On Linux, a client that reads nothing for `stalled_s` is disconnected.

        Raises:
            ConfigError: the address cannot be used, or it is not loopback and there is no token.
        """
        try:
            family, kind, protocol, _, resolved = socket.getaddrinfo(
                self.address.host, self.address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            if self.token is None and not ipaddress.ip_address(str(resolved[0]).partition("%")[0]).is_loopback:
                raise ConfigError(
                    f"--http {self.address} can be reached from other machines: name a file with a token with "
                    "--token-file, or listen on 127.0.0.1"
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
        return f"http://{_bracketed(host)}:{port}{PATH}"


def token_of(path: Path) -> tuple[str, Sequence[str]]:
    """Read a token from a file; returns warnings for the operator with it.

    Raises:
        ConfigError: the file cannot be read, or holds no usable token.
    """
    from agentbus.config.connection_settings import read_secret  # noqa: PLC0415  # `agentbus-mcp --help` needs none of it
    from agentbus.config.loading import exposure  # noqa: PLC0415  # `agentbus-mcp --help` needs none of it

    token = read_secret(path.expanduser())
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"the token in {path} has characters that a header cannot carry: use letters and digits")
    if len(token) < _MIN_TOKEN_CHARS:
        raise ConfigError(
            f"the token in {path} is short enough to be guessed; it must have at least {_MIN_TOKEN_CHARS} characters, "
            "for instance those of: openssl rand -hex 32"
        )
    return token, list(exposure(path.expanduser()))


def host_name(text: str) -> str:
    """Check a name for `--allowed-host`: a host, with or without a port.

    Raises:
        ValueError: the text is not a host.
    """
    if not re.fullmatch(rf"{_NAME}(:\d{{1,5}})?", text):
        raise ValueError("is not a host, such as bus.example.com or bus.example.com:8443")
    return text.lower()


def origin(text: str) -> str:
    """Check an origin for `--allowed-origin`.

    Raises:
        ValueError: the text is not an origin.
    """
    if not re.fullmatch(rf"https?://{_NAME}(:\d{{1,5}})?", text):
        raise ValueError("is not an origin, such as https://app.example.com: a scheme and a host, no path")
    return text.lower()


def _with_any_port(name: str) -> Iterable[str]:
    """Yield a name and, if it has no port, the pattern for any port."""
    yield name
    if not re.search(r":\d+$", name):
        yield f"{name}:*"


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::")  # noqa: S104  # compared, not bound


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
