"""Serves many clients over HTTP, on uvicorn."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from socket import socket
from typing import Final, TypeAlias, cast

import anyio
import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from agentbus.config.connection_settings import ConnectionSettings
from agentbus.protocol.json_codec import encode
from agentbus_mcp import sdk
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.metrics import NO_METRICS, Metrics
from agentbus_mcp.server import Server
from agentbus_mcp.transports.bearer_token import BearerToken
from agentbus_mcp.transports.bounded_http import Connections
from agentbus_mcp.transports.http_settings import PATH, HttpSettings
from agentbus_mcp.transports.lifecycle import end, load, termination
from agentbus_mcp.transports.request_checks import RequestChecks

log = logging.getLogger("agentbus.mcp")

Load: TypeAlias = Callable[[BusLink], Awaitable[Server]]
HEALTH: Final = "/healthz"
_MAX_CONNECTIONS: Final = 4_000
"""How many connections are served at the same time. Where all have requests, one more is answered with 503."""
_OTHER_FILES: Final = 64
"""How many of the files that the process may open are reserved for other uses than connections."""
_MAX_BODY_BYTES: Final = 9 * 1024 * 1024
"""Room for the largest task that the bus takes."""
_GRACE_S: Final = 1
"""How long requests in progress may take to end after a signal."""
_END_S: Final = 2.3
"""When the process exits after a signal, even if a request hangs; exporting spans takes up to 0.5 s more."""


def serve(
    settings: ConnectionSettings,
    agent: str,
    http_settings: HttpSettings,
    listener: socket,
    *,
    load: Load = load,
    metrics: Metrics = NO_METRICS,
) -> None:
    """Serve clients on a listening socket until SIGTERM or SIGINT; print the URL once they are served."""
    logging.getLogger("mcp.server.streamable_http").addFilter(_is_no_hang_up)
    bus_link = BusLink(settings, agent, on_reconnect=metrics.reconnected)
    metrics.show("bus_connected", lambda: bus_link.up is not None)
    anyio.run(_serve, bus_link, http_settings, listener, load, metrics)


def application(server: Server, bus_link: BusLink, http_settings: HttpSettings) -> ASGIApp:
    """Build the application: MCP, and the health of this process, which needs no token.

    The caller runs `server.session_manager` for as long as the application is used.
    """

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "bus": "disconnected" if bus_link.up is None else "connected"})

    server.custom_route(HEALTH, methods=["GET"], include_in_schema=False)(health)
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=_MAX_BODY_BYTES,
        session_idle_timeout=http_settings.idle_s,
        max_sessions=http_settings.max_sessions,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # `RequestChecks` does
    )
    if http_settings.token is not None:
        app = BearerToken(app, http_settings.token, public=frozenset({HEALTH}))
    if http_settings.origins:
        # Before the token is checked: a browser asks before it sends it.
        app = CORSMiddleware(
            app,
            allow_origins=http_settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Mcp-Session-Id"],
        )
    return RequestChecks(app, http_settings)


def _is_no_hang_up(record: logging.LogRecord) -> bool:
    """Whether the SDK logs something else than a client that has hung up in a body, which is no fault of ours."""
    return record.exc_info is None or not isinstance(record.exc_info[1], ClientDisconnect)


class _Uvicorn(uvicorn.Server):
    """The HTTP server: prints its URL once it serves, and leaves signals to this module."""

    def __init__(self, app: ASGIApp, url: str, http_settings: HttpSettings) -> None:
        connections = Connections(http_settings.bounds(_max_connections()))
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[asyncio.Protocol]", connections.protocol()),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing depends on what `X-Forwarded-For` says, so no proxy has to be trusted
                limit_concurrency=connections.bounds.connections + 1,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._url = url

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(encode({"url": self._url}).decode() + "\n")
        sys.stdout.flush()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def stop(self) -> None:
        """Begin to end. Connections that are cut off then are no errors."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.handle_exit(signal.SIGTERM, None)  # the streams of the 2025 era listen to this call


def _max_connections() -> int:
    """How many connections to serve: fewer than the open files allow, so that the bus can be dialled again."""
    if sys.platform == "win32":
        return _MAX_CONNECTIONS
    import resource  # noqa: PLC0415  # not on Windows

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(_MAX_CONNECTIONS, files - _OTHER_FILES))


async def _serve(
    bus_link: BusLink, http_settings: HttpSettings, listener: socket, load: Load, metrics: Metrics
) -> None:
    with termination() as requested:
        async with bus_link.open():
            server = await load(bus_link)
            await server.measure(metrics)
            app = application(server, bus_link, http_settings)
            http = _Uvicorn(app, http_settings.url(listener), http_settings)
            metrics.show("sessions", lambda: sdk.open_sessions(server.session_manager))
            async with server.session_manager.run(), anyio.create_task_group() as group:
                group.start_soon(_stop, requested, server, http)
                await http.serve(sockets=[listener])
                group.cancel_scope.cancel()
        end()


async def _stop(requested: asyncio.Event, server: Server, http: _Uvicorn) -> None:
    await requested.wait()
    server.close_streams()
    http.stop()
    await anyio.sleep(_END_S)
    end()
