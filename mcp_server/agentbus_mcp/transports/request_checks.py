"""Refuses HTTP requests that are ambiguous, or that are for another server."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeAlias

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agentbus.config.addresses import read_address
from agentbus.errors import ConfigError
from agentbus_mcp.transports.http_settings import HttpSettings

_Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
_Refusal: TypeAlias = tuple[int, str]

_SINGLE: Final = (
    b"host",
    b"authorization",
    b"origin",
    b"content-type",
    b"mcp-session-id",
    b"mcp-protocol-version",
    b"mcp-method",
    b"mcp-name",
    b"last-event-id",
)
"""Headers that may occur once: of two, a proxy and this server might each use another one."""


class RequestChecks:
    """Passes on the requests for this server, on every path."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it: 400 if it is malformed, 421 for another host, 403 for another origin."""
        refusal = self._refusal(scope["headers"], scope["http_version"]) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, text = refusal
        # After a malformed head, the rest of the connection cannot be trusted either.
        headers = {"Connection": "close"} if status == 400 else None
        await PlainTextResponse(f"{text}\n", status_code=status, headers=headers)(scope, receive, send)

    def _refusal(self, headers: _Headers, http_version: str) -> _Refusal | None:
        return _malformed(headers, http_version) or self._misdirected(headers)

    def _misdirected(self, headers: _Headers) -> _Refusal | None:
        host = _value(headers, b"host")
        try:
            if not host.isascii():
                raise ConfigError("not ASCII")
            address = read_address(host, default_port=0)
        except ConfigError:
            return 400, "Malformed Host header"
        if not self._settings.serves_host(address):
            return 421, "Invalid Host header"
        origin = _value(headers, b"origin")
        return (403, "Invalid Origin header") if not self._settings.serves_origin(origin) else None


def _malformed(headers: _Headers, http_version: str) -> _Refusal | None:
    """Return what is wrong with the head of a request. h11 accepts repeated lengths only if they are equal."""
    counts = Counter(name for name, _ in headers)
    repeated = next((name for name in _SINGLE if counts[name] > 1), None)
    if repeated is not None:
        return 400, f"More than one {repeated.decode().title()} header"
    if counts[b"transfer-encoding"] and (counts[b"content-length"] or http_version == "1.0"):
        return 400, "Transfer-Encoding with Content-Length, or in HTTP/1.0"
    return None


def _value(headers: _Headers, name: bytes) -> str:
    return next((value.decode("latin-1") for found, value in headers if found == name), "")
