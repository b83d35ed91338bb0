"""Serves many clients over HTTP, on uvicorn."""

import asyncio
import logging
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Final, cast

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agentbus.config.connection_settings import ConnectionSettings
from agentbus.protocol.json_codec import encode
from agentbus.protocol.roles import Role
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.metrics import NO_METRICS, Metrics
from agentbus_mcp.transports.bounded_http import Connections
from agentbus_mcp.transports.coordinators import Client, Coordinators, NamedCoordinators, OneCoordinator
from agentbus_mcp.transports.http_settings import HttpSettings
from agentbus_mcp.transports.lifecycle import end, load, termination
from agentbus_mcp.transports.request_checks import RequestChecks
from agentbus_mcp.transports.served_coordinator import Load, ServedCoordinator

log = logging.getLogger("agentbus.mcp")

HEALTH: Final = "/healthz"
_MAX_CONNECTIONS: Final = 4_000
"""How many connections are served at the same time. If all have requests, another one is answered with 503."""
_OTHER_FILES: Final = 64
"""How many of the files that the process may open are reserved for other uses than connections."""
_GRACE_S: Final = 1
"""How long requests in progress may take to end after a signal."""
_EXIT_S: Final = 2.3
"""When the process exits after a signal, even if a request hangs; exporting spans takes up to 0.5 s more."""


def serve(
    settings: ConnectionSettings,
    agent: str,
    http_settings: HttpSettings,
    listener: socket,
    *,
    load: Load = load,
    metrics: Metrics = NO_METRICS,
    role: Role | None = None,
    folders: Sequence[Path] = (),
) -> None:
    """Serve one coordinator on a listening socket until SIGTERM or SIGINT; print the URL once it is served."""
    bus_link = BusLink(settings, agent, role, folders=folders, on_reconnect=metrics.reconnected)
    coordinator = ServedCoordinator(bus_link, http_settings, load, metrics)
    _serve(OneCoordinator(coordinator, http_settings.token), http_settings, listener, metrics)


def serve_named(
    tokens: Path,
    clients: Mapping[str, Client],
    http_settings: HttpSettings,
    listener: socket,
    *,
    metrics: Metrics = NO_METRICS,
) -> None:
    """Serve a coordinator for each named token of a file in the same way; `clients` is its present content."""

    def make(name: str, client: Client) -> ServedCoordinator:
        bus_link = BusLink(
            client.connection,
            client.agent,
            client.role,
            folders=client.folders,
            on_reconnect=metrics.reconnected,
            label=f"{name}: ",
        )
        return ServedCoordinator(bus_link, http_settings, load, metrics)

    _serve(NamedCoordinators(tokens, clients, make), http_settings, listener, metrics)


def _serve(coordinators: Coordinators, http_settings: HttpSettings, listener: socket, metrics: Metrics) -> None:
    logging.getLogger("mcp.server.streamable_http").addFilter(_is_not_disconnect)
    metrics.show("bus_connected", lambda: _connected(coordinators))
    metrics.show("sessions", lambda: sum(one.sessions for one in coordinators.served))
    metrics.show("listen_streams", lambda: sum(one.streams for one in coordinators.served))
    metrics.show("feeds", lambda: sum(one.sources for one in coordinators.served))
    anyio.run(_run, coordinators, http_settings, listener)


def application(coordinators: Coordinators, http_settings: HttpSettings) -> ASGIApp:
    """Build the application: the coordinators, behind sign-in, and the health of this process, which needs no token."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "bus": "connected" if _connected(coordinators) else "disconnected"})

    app = _without_slash(Starlette(routes=[Route(HEALTH, health, methods=["GET"]), Mount("/", coordinators.sign_in)]))
    if http_settings.origins:
        # Before the sign-in: a browser sends its preflight request without the token.
        app = CORSMiddleware(
            app,
            allow_origins=http_settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Mcp-Session-Id"],
        )
    return RequestChecks(app, http_settings)


def _without_slash(app: ASGIApp) -> ASGIApp:
    """Serve `/mcp/` as `/mcp`. Starlette would redirect, behind a proxy that ends TLS to a URL without it."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await app(scope, receive, send)

    return serve


def _connected(coordinators: Coordinators) -> bool:
    return all(one.connected for one in coordinators.served)


def _is_not_disconnect(record: logging.LogRecord) -> bool:
    """Return False for the SDK's log line about a client that disconnected during its request."""
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
                proxy_headers=False,  # nothing depends on `X-Forwarded-For`, so no proxy has to be trusted
                limit_concurrency=connections.bounds.connections + 1,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._url = url

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            print(encode({"url": self._url}).decode(), flush=True)  # noqa: T201  # of a closed output, nothing
        except OSError as error:
            log.warning("serves %s; standard output cannot be written to: %s", self._url, error.strerror)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def stop(self) -> None:
        """Begin the shutdown. Connections that are closed by it are not logged as errors."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.handle_exit(signal.SIGTERM, None)  # the event streams of the 2025 era end with this call


def _max_connections() -> int:
    """Return how many connections to serve: fewer than the limit of open files, so that the bus can be dialled."""
    if sys.platform == "win32":
        return _MAX_CONNECTIONS
    import resource  # noqa: PLC0415  # not on Windows

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(_MAX_CONNECTIONS, files - _OTHER_FILES))


async def _run(coordinators: Coordinators, http_settings: HttpSettings, listener: socket) -> None:
    with termination() as requested:
        async with anyio.create_task_group() as group:
            await group.start(coordinators.run)
            http = _Uvicorn(application(coordinators, http_settings), http_settings.url(listener), http_settings)
            group.start_soon(_stop, requested, coordinators, http)
            await http.serve(sockets=[listener])
            group.cancel_scope.cancel()
        end()


async def _stop(requested: asyncio.Event, coordinators: Coordinators, http: _Uvicorn) -> None:
    await requested.wait()
    for one in coordinators.served:
        one.end_waits()
    http.stop()
    await anyio.sleep(_EXIT_S)
    end()
