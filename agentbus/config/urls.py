"""Where a bus is: URLs of NATS servers, with their credentials kept out of sight."""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from agentbus.config.addresses import Address, read_address
from agentbus.errors import ConfigError

DEFAULT_PORT: Final = 4222
SAMPLE_PASSWORD: Final = "CHANGE-ME"  # noqa: S105  # the point is that it is none
"""How the passwords in the shipped examples begin; no tool connects with one."""


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """One server of the bus. `str()` and `repr()` leave the credentials out."""

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        """Whether this server is only spoken to over TLS."""
        return self.scheme == "tls"

    def __str__(self) -> str:
        return f"{self.scheme}://{Address(self.host, self.port)}"


def parse_urls(text: str) -> tuple[ServerUrl, ...]:
    """Read one URL, or several separated by commas: `nats://host:4222` or `tls://user:password@host`.

    User and password are percent-decoded. A user without a password is a token.

    Raises:
        ConfigError: for another scheme, a missing host, a bad port, a password from the shipped examples, or servers
            with different credentials.
    """
    urls = tuple(_parse_url(part.strip()) for part in text.split(",") if part.strip())
    if not urls:
        raise ConfigError("the NATS URL is empty; write it as nats://host:4222 or tls://host:4222")
    if len({(url.user, url.password) for url in urls if url.user is not None}) > 1:
        raise ConfigError(
            "the servers in the NATS URL have different credentials; one bus has one user for all of them"
        )
    return urls


def _parse_url(text: str) -> ServerUrl:
    parts = _split(text)
    if parts.scheme not in ("nats", "tls"):
        raise ConfigError(f"the NATS URL begins with {parts.scheme!r}; use nats:// or, with TLS, tls://")
    where = _address(parts.netloc.rpartition("@")[2])
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError("the NATS URL goes on after the port; percent-encode '/', '?', '#' and '@' in passwords")
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password is not None else None
    refuse_sample(password or user)
    return ServerUrl(parts.scheme, where.host, where.port, user, password)


def _split(text: str) -> SplitResult:
    """Split a URL, whose scheme may be missing."""
    try:
        return urlsplit(text if "://" in text else f"nats://{text}")
    except ValueError:
        raise _unreadable("its brackets or its characters are not those of a URL") from None


def _address(text: str) -> Address:
    if re.fullmatch("(:[^:]*)?", text):
        raise ConfigError("the NATS URL names no host; write it as nats://host:4222 or tls://host:4222")
    try:
        return read_address(text.removesuffix(":"), default_port=DEFAULT_PORT)  # a URL may end with an empty port
    except ConfigError as error:
        raise _unreadable(str(error)) from None


def _unreadable(reason: str) -> ConfigError:
    # The URL is not quoted: what stands where the address should be is often a piece of a password.
    return ConfigError(
        f"the NATS URL cannot be read: {reason}; in a password, '/', '?', '#', '@', ',' and '[' must be "
        "percent-encoded; write it as nats://host:4222"
    )


def refuse_sample(secret: str | None) -> None:
    """Refuse a password from the shipped examples.

    Raises:
        ConfigError: it begins like one.
    """
    if secret is not None and secret.startswith(SAMPLE_PASSWORD):
        raise ConfigError("the password is the one from the shipped example; set a password of your own")
