"""Serves many clients over HTTP, on uvicorn."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Final

import anyio
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
from agentbus_mcp.transports.coordinators import Client, Coordinators, NamedCoordinators, OneCoordinator
from agentbus_mcp.transports.http_server import serve_until_signal
from agentbus_mcp.transports.http_settings import PATH, HttpSettings, PageSettings
from agentbus_mcp.transports.lifecycle import load
from agentbus_mcp.transports.request_checks import RequestChecks
from agentbus_mcp.transports.served_coordinator import Load, ServedCoordinator

if TYPE_CHECKING:
    from agentbus_mcp.page.served_page import ServedPage

log = logging.getLogger("agentbus.mcp")

HEALTH: Final = "/healthz"


def serve(  # noqa: PLR0913  # what the options of the command say
    settings: ConnectionSettings,
    agent: str,
    http_settings: HttpSettings,
    listener: socket,
    *,
    load: Load = load,
    metrics: Metrics = NO_METRICS,
    role: Role | None = None,
    folders: Sequence[Path] = (),
    page: PageSettings | None = None,
) -> None:
    """Serve one coordinator on a listening socket until SIGTERM or SIGINT; print the URL once it is served."""
    bus_link = BusLink(settings, agent, role, folders=folders, on_reconnect=metrics.reconnected)
    coordinator = ServedCoordinator(bus_link, http_settings, load, metrics, _page_of(bus_link, page))
    _serve(OneCoordinator(coordinator, http_settings.token), http_settings, listener, metrics, page)


def serve_named(
    tokens: Path,
    clients: Mapping[str, Client],
    http_settings: HttpSettings,
    listener: socket,
    *,
    metrics: Metrics = NO_METRICS,
    page: PageSettings | None = None,
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
        return ServedCoordinator(bus_link, http_settings, load, metrics, _page_of(bus_link, page))

    _serve(NamedCoordinators(tokens, clients, make), http_settings, listener, metrics, page)


def _page_of(link: BusLink, page: PageSettings | None) -> "ServedPage | None":
    """Return what the page of a coordinator shows; None where there is no page, and nothing of it is imported."""
    if page is None:
        return None
    from agentbus_mcp.page.served_page import ServedPage  # noqa: PLC0415  # most servers have no page

    return ServedPage(link)


def _serve(
    coordinators: Coordinators,
    http_settings: HttpSettings,
    listener: socket,
    metrics: Metrics,
    page: "PageSettings | None",
) -> None:
    logging.getLogger("mcp.server.streamable_http").addFilter(_is_not_disconnect)
    metrics.show("bus_connected", lambda: _connected(coordinators))
    metrics.show("sessions", lambda: sum(one.sessions for one in coordinators.served))
    metrics.show("listen_streams", lambda: sum(one.streams for one in coordinators.served))
    metrics.show("feeds", lambda: sum(one.sources for one in coordinators.served))
    offered = None
    if page is not None:
        from agentbus_mcp.transports.pages.offered_page import OfferedPage  # noqa: PLC0415  # most servers have no page

        offered = OfferedPage(coordinators, page, listener)
    url = http_settings.url(listener)

    def serves() -> None:
        said = {"url": url, **(offered.told(url.removesuffix(PATH)) if offered else {})}
        try:
            print(encode(said).decode(), flush=True)  # noqa: T201  # of a closed output, nothing
        except OSError as error:
            log.warning("serves %s; standard output cannot be written to: %s", url, error.strerror)

    app = application(coordinators, http_settings)
    if offered is not None:
        app = offered.beside(app, http_settings)
    anyio.run(serve_until_signal, coordinators, app, http_settings, listener, serves)


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
