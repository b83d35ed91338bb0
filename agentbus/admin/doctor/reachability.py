"""Checks the connection to a server step by step: its name, its port, its greeting, its certificate."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.bus.dialling.greeting import read_greeting
from agentbus.bus.dialling.tls import tls_context, why_tls_failed
from agentbus.config.connection_settings import ConnectionSettings
from agentbus.config.urls import ServerUrl
from agentbus.errors import AgentBusError

_CONNECT_S: Final = 5.0  # for each step; an operator waits for the report
_SOON_S: Final = 14 * 86_400  # time to get a new certificate from an external authority
_NO_GREETING: Final = "correct the port of url in [nats]; if the server wants TLS first, set tls_first"
_LOOPBACK: Final = ("127.", "::1", "localhost")


def is_local(url: ServerUrl) -> bool:
    """Return whether a server is on this machine itself."""
    return url.host.startswith(_LOOPBACK)


async def check_reachability(url: ServerUrl, settings: ConnectionSettings) -> AsyncGenerator[Finding]:
    """Check each step, up to the first that fails. No credential is sent."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_S):
            found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        yield failed("name", f"{url.host} is not resolved within {_CONNECT_S:g} s", "check the DNS of this machine")
        return
    except OSError as error:
        yield failed("name", f"{url.host}: {error.strerror or error}", "correct url in [nats], or the DNS")
        return
    yield ok("name", f"{url.host} is {', '.join(dict.fromkeys(str(entry[4][0]) for entry in found))}")
    try:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(url.host, url.port)
    except TimeoutError:
        fix = "open the port in the firewall of the server, or correct url in [nats]"
        yield failed("tcp", f"{url} does not answer within {_CONNECT_S:g} s", fix)
        return
    except OSError as error:
        fix = "start the server (agentbus up, or systemctl start nats), or correct url in [nats]"
        yield failed("tcp", f"{url}: {_reason(error)}", fix)
        return
    try:
        yield ok("tcp", f"{url} accepts connections")
        async for finding in _greeting(url, settings, reader, writer):
            yield finding
    finally:
        writer.close()
        with suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


async def _greeting(
    url: ServerUrl, settings: ConnectionSettings, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncGenerator[Finding]:
    if settings.tls_first:
        yield await _handshake(url, settings, writer)
        return
    info = await read_greeting(reader, _CONNECT_S)
    if not info:
        yield failed("greeting", f"what listens on {url} is no NATS server", _NO_GREETING)
        return
    if not url.tls and not settings.needs_tls:
        if not info.get("tls_required"):
            yield _plain(url)
        return
    if not info.get("tls_required") and not info.get("tls_available"):
        yield failed(
            "tls", f"{url} offers no TLS", "give the server a tls block; do not switch to nats:// on an open network"
        )
        return
    yield await _handshake(url, settings, writer)


def _plain(url: ServerUrl) -> Finding:
    if is_local(url):
        return ok("tls", "not needed on this machine itself")
    return warning(
        "tls",
        f"the connection to {url} is not encrypted: credentials are sent in clear text",
        "use tls://, unless the network is encrypted",
    )


async def _handshake(url: ServerUrl, settings: ConnectionSettings, writer: asyncio.StreamWriter) -> Finding:
    try:
        context = tls_context(settings)
        async with asyncio.timeout(_CONNECT_S):
            await writer.start_tls(context, server_hostname=url.host)
    except AgentBusError as error:
        return failed("tls", str(error))
    except ssl.SSLError as error:
        reason, fix = why_tls_failed(error, settings)
        return failed("tls", f"TLS with {url} failed: {reason}", fix)
    except (OSError, TimeoutError) as error:
        return failed("tls", f"no TLS with {url}: {error or 'no answer'}", "look at the log of the server")
    certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    text = f"the certificate for {url.host} is valid until {ends:%Y-%m-%d}"
    if ends.timestamp() - time.time() < _SOON_S:
        return warning("tls", text, "renew it: on that day every connection ends")
    return ok("tls", text)
