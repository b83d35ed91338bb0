"""The HTTP server of this package: uvicorn with bounds, which says where it serves once it does."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from socket import socket
from typing import Final, cast

import anyio
import uvicorn
from starlette.types import ASGIApp

from agentbus_mcp.transports.bounded_http import Connections
from agentbus_mcp.transports.coordinators import Coordinators
from agentbus_mcp.transports.http_settings import HttpSettings
from agentbus_mcp.transports.lifecycle import end, termination

MAX_CONNECTIONS: Final = 4_000
"""How many connections are served at the same time. If all have requests, another one is answered with 503."""
_OTHER_FILES: Final = 64
"""How many of the files that the process may open are reserved for other uses than connections."""
_GRACE_S: Final = 1
"""How long requests in progress may take to end after a signal."""
_EXIT_S: Final = 2.3
"""When the process exits after a signal, even if a request hangs; exporting spans takes up to 0.5 s more."""


async def serve_until_signal(
    coordinators: Coordinators,
    app: ASGIApp,
    http_settings: HttpSettings,
    listener: socket,
    serves: Callable[[], None],
) -> None:
    """Serve an application, and run the coordinators behind it, until SIGTERM or SIGINT; then end the process.

    `serves` is called once it serves.
    """
    with termination() as requested:
        async with anyio.create_task_group() as group:
            await group.start(coordinators.run)
            http = HttpServer(app, http_settings, serves)
            group.start_soon(_stop, requested, coordinators, http)
            await http.serve(sockets=[listener])
            group.cancel_scope.cancel()
        end()


async def _stop(requested: asyncio.Event, coordinators: Coordinators, http: "HttpServer") -> None:
    await requested.wait()
    for one in coordinators.served:
        one.end_waits()
    http.stop()
    await anyio.sleep(_EXIT_S)
    end()


class HttpServer(uvicorn.Server):
    """The HTTP server: calls `serves` once it does, and leaves signals to others."""

    def __init__(self, app: ASGIApp, http_settings: HttpSettings, serves: Callable[[], None]) -> None:
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
        self._serves = serves

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Begin to serve, and say so."""
        await super().startup(sockets)
        self._serves()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals as they are."""
        yield

    def stop(self) -> None:
        """Begin the shutdown. Connections that are closed by it are not logged as errors."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.handle_exit(signal.SIGTERM, None)  # the event streams of the 2025 era end with this call


def _max_connections() -> int:
    """Return how many connections to serve: fewer than the limit of open files, so that the bus can be dialled."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource  # noqa: PLC0415  # not on Windows

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, files - _OTHER_FILES))
