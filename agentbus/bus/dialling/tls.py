"""Makes TLS contexts of clients, and explains failed handshakes with what to do about them."""

import ssl
from pathlib import Path
from typing import Final

from agentbus.config.connection_settings import ConnectionSettings
from agentbus.errors import ConfigError

_NAME_MISMATCH: Final = (62, 64)
_NOT_NOW: Final = (9, 10)
"""OpenSSL's numbers for a certificate of another host, and for one that is not valid yet or has expired."""


def tls_context(settings: ConnectionSettings) -> ssl.SSLContext:
    """Make a context with the configured CAs and client certificate. Reads the files at each call.

    Raises:
        ConfigError: a file cannot be used; the message names it. No pass phrase is asked for.
    """
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    except ssl.SSLError:
        raise ConfigError(f"ca_file {settings.ca_file} holds no certificate in PEM form") from None
    except OSError as error:
        raise ConfigError(f"cannot read ca_file {settings.ca_file}: {error.strerror}") from None
    if settings.cert_file:
        _load_certificate(context, settings.cert_file, settings.key_file)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load the client certificate into a context."""
    holder = f"key_file {key}" if key else f"cert_file {certificate}"
    for file in (certificate, key or certificate):
        try:
            file.open("rb").close()  # OpenSSL does not say which of the two it could not read
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}") from None

    def refuse() -> str:
        raise ConfigError(
            f"{holder} is encrypted, and agentbus asks for no pass phrase; remove it with: "
            f"openssl pkey -in {key or certificate} -out NEW-KEY, and chmod 600 NEW-KEY"
        )

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{holder} does not belong to cert_file {certificate}; name the key it was made with"
            ) from None
        missing = "" if key else "; name the private key with key_file"
        raise ConfigError(f"cert_file {certificate} and its key cannot be used: they must be PEM{missing}") from None


def why_tls_failed(error: ssl.SSLError, settings: ConnectionSettings) -> tuple[str, str]:
    """Return why a handshake failed, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")  # more is put behind it
        if error.verify_code in _NAME_MISMATCH:
            return why, "write a name or address into url that the server's certificate has"
        if error.verify_code in _NOT_NOW:
            return why, "renew the server's certificate, or set the clock of this machine"
        if settings.ca_file:
            return why, f"{settings.ca_file} is not the CA of this server; set ca_file in [nats] to it"
        return why, "set ca_file in [nats] for a private CA"
    reason = str(error.reason or error).lower().replace("_", " ")
    if "alert" in reason:  # sent by the server, about our certificate
        return reason, certificate_wanted(settings)
    return reason, "compare the tls block of the server with ca_file and url in [nats]"


def certificate_wanted(settings: ConnectionSettings) -> str:
    """Say what to do about a server that checks client certificates."""
    if settings.cert_file is None:
        return "the server asks for a client certificate: set cert_file and key_file in [nats]"
    return f"the server does not accept {settings.cert_file}: take a certificate of a CA that it trusts"
