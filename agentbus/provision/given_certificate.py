"""Checks a certificate that an operator brings for a server, as its clients will: its key, its time, its names."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agentbus.config.text_files import reason_of
from agentbus.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes


def check_certificate(certificate: Path, key: Path, host: str) -> None:
    """Check that a server can use a certificate with a key, and that clients will take it for `host`, by now.

    Raises:
        ConfigError: it is of no use as it is; the error says what to bring.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    leaf, private = _certificate(certificate), _private_key(key)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        raise ConfigError(f"--key: {key} does not belong to {certificate}; name the key that it was made with")
    now, begins, ends = datetime.now(UTC), leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if ends <= now:
        raise ConfigError(f"--cert: {certificate} has expired on {ends:%Y-%m-%d}; bring a new one")
    if begins > now:
        raise ConfigError(
            f"--cert: {certificate} is valid from {begins:%Y-%m-%d at %H:%M} UTC on; set the clock, or wait"
        )
    names = _names(leaf)
    if not any(_covers(name, host) for name in names):
        known = ", ".join(names) or "no name at all: clients look at subjectAltName only"
        raise ConfigError(
            f"--cert: clients would refuse {certificate} for {host}; it is for {known}. Name it with --host"
        )


def _certificate(path: Path) -> x509.Certificate:
    from cryptography import x509  # noqa: PLC0415

    data = _read("--cert", path)
    try:
        return x509.load_pem_x509_certificates(data)[0]  # the first is that of the server, whatever chain follows
    except ValueError:
        swapped = " but a private key: are --cert and --key swapped?" if b"PRIVATE KEY" in data else ""
        raise ConfigError(f"--cert: {path} holds no certificate in PEM form{swapped}") from None


def _private_key(path: Path) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    data = _read("--key", path)
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        raise ConfigError(f"--key: {path} is encrypted, and nats-server asks for no pass phrase; remove it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"--key: {path} holds no private key in PEM form") from None


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option}: cannot read {path}: {reason_of(error)}") from None


def _names(leaf: x509.Certificate) -> list[str]:
    from cryptography import x509  # noqa: PLC0415

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _covers(name: str, host: str) -> bool:
    """Return whether a name in a certificate stands for a host; `*` stands for its first label."""
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(host)
    except ValueError:
        label, dot, rest = host.partition(".")
        return name.lower() == host or (name.lower() == f"*{dot}{rest}" and bool(label and rest))
