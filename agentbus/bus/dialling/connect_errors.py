"""Turns the exception of a failed dial into an error of `agentbus.errors`, with the reason and what to do about it."""

import ssl
from datetime import UTC, datetime

from agentbus.bus.dialling.tls import certificate_wanted, why_tls_failed
from agentbus.bus.nats_client import CertificateWantedError, NotSecureError, is_auth_error
from agentbus.config.connection_settings import ConnectionSettings, Credentials
from agentbus.config.nkeys import UserKey, expiry
from agentbus.errors import AuthenticationError, BusError, BusUnavailableError


def explained(error: BaseException, settings: ConnectionSettings, presented: Credentials) -> BusError:
    """Make the error for an exception of nats-py, asyncio or ssl. Its text quotes no secret."""
    servers = settings.servers
    if isinstance(error, BusError):
        return error
    if is_auth_error(error):
        return _refused(settings, presented)
    if isinstance(error, NotSecureError):
        return BusUnavailableError(f"{servers}: {error}")
    if isinstance(error, (ssl.SSLError, CertificateWantedError)):
        return BusUnavailableError(f"TLS with {servers} failed: {_of_handshake(error, settings)}")
    if isinstance(error, TimeoutError):
        return BusUnavailableError(f"{servers} did not answer within {settings.connect_timeout_s:g} s")
    if (limit := _of_limit(error)) is not None:
        return BusUnavailableError(f"the bus at {servers} {limit}")
    if "expecting INFO" in str(error):
        first = "" if settings.tls_first else "; if it wants TLS first (handshake_first), set tls_first in [nats]"
        return BusUnavailableError(f"what listens at {servers} does not greet as a NATS server does{first}")
    return BusUnavailableError(
        f"cannot reach the bus at {servers}: {_of_dial(error)}; "
        "is nats-server running? `agentbus up` starts a local one"
    )


def _of_limit(error: BaseException) -> str | None:
    """Say what the bus takes no more of, and what to do; None if the error is another one."""
    if "connections exceeded" in str(error).lower():  # of the server, of an account, or of a user
        return (
            f"takes no more connections ({_of_dial(error)}); "
            "end clients that are not needed, or raise max_connections on the server"
        )
    if "subscriptions exceeded" in str(error).lower():  # the server has closed the connection for it
        return (
            f"takes no more subscriptions of one connection ({_of_dial(error)}); "
            "agentbus needs fewer than 64: raise max_subscriptions of its user, of its account, or of the server"
        )
    return None


def _of_handshake(error: ssl.SSLError | CertificateWantedError, settings: ConnectionSettings) -> str:
    if isinstance(error, CertificateWantedError):
        return certificate_wanted(settings)
    reason, fix = why_tls_failed(error, settings)
    return f"{reason}; {fix}"


def _of_dial(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).removeprefix("nats: ")
    return reason.strip("'") or "it hung up"  # asyncio gives no reason


def _refused(settings: ConnectionSettings, presented: Credentials) -> AuthenticationError:
    return AuthenticationError(f"{settings.servers} refused the credentials{_of(settings, presented)}")


def _of(settings: ConnectionSettings, presented: Credentials) -> str:
    place = f" in {presented.file}" if presented.file else ""
    check = f"check {presented.key} in [nats]" if presented.key else "check the URL"
    if presented.jwt is not None:
        ends = expiry(presented.jwt)
        if ends is not None and ends <= datetime.now(UTC):
            return f": the user JWT{place} has expired on {ends:%Y-%m-%d at %H:%M} UTC; put a new .creds file there"
        return f" (the user JWT{place}): it may have been revoked; {check}, or put a new .creds file there"
    if presented.nkey_seed is not None:
        key = UserKey(presented.nkey_seed).public
        return f" (the nkey {key}{place}): it may have been replaced; join again with a new bundle, or {check}"
    if presented.password is not None:
        return (
            f" of the user {presented.user} (the password{place or ' in the URL'}): it may have been changed; {check}"
        )
    if presented.token is not None:
        return f" (the token{place or ' in the URL'}): it may have been changed; {check}"
    if settings.cert_file is not None:
        return f" (the client certificate in {settings.cert_file}): the server knows no user for it; check cert_file"
    return (
        ": there are none in the configuration; set user and password_file, token_file, nkey_file or creds_file in "
        "[nats]"
    )
