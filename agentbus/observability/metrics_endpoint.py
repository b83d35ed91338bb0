"""Metrics for Prometheus over HTTP, for this machine alone, and whether the process is healthy.

A few threads of their own serve them: neither making the text nor a slow reader holds up the event
loop, and an event loop that stands still can still be asked. The library `prometheus-client` is an extra, and is loaded
when metrics are served; the HTTP server is the standard library's, which has what `GET /metrics` needs.
"""

import json
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final

from agentbus.config.addresses import read_address
from agentbus.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PATH: Final = "/metrics"
HEALTH_PATH: Final = "/healthz"
_HOST: Final = "127.0.0.1"
_NAMES: Final = frozenset({_HOST, "localhost"})
"""What this machine is called by those who may ask; a page in a browser that was led here by DNS says another name."""
_AT_ONCE: Final = 8
_REQUEST_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.1


def new_registry() -> "CollectorRegistry":
    """A registry of one's own, with the CPU time, memory and files of this process.

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        from prometheus_client import (  # noqa: PLC0415
            CollectorRegistry,
            ProcessCollector,
            disable_created_metrics,
        )
    except ImportError:
        raise ConfigError(
            'metrics need the library prometheus-client; install it with: pip install "agentbus-mcp[metrics]"'
        ) from None
    disable_created_metrics()  # a second series for each, which no dashboard uses
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


@contextmanager
def exposed(registry: "CollectorRegistry", port: int, why_unhealthy: Callable[[], str] | None = None) -> Generator[str]:
    """Serve the metrics of `registry` on loopback for the length of the block; gives the URL. Port 0 is any free one.

    Args:
        why_unhealthy: called by other threads at each `GET /healthz`: an empty text is answered with 200, any other
            one with 503. Without it there is no such path.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server = _Server(registry, port, why_unhealthy)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {_HOST}:{port}: {error.strerror or error}; each process needs a port of its own"
        ) from None
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
        thread.start()
        try:
            yield f"http://{_HOST}:{server.server_address[1]}{PATH}"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    """A thread for each request, and a limit for them: beyond it, requests are refused."""

    allow_reuse_address = os.name == "posix"  # elsewhere it means that two may have the same port
    daemon_threads = True

    def __init__(self, registry: "CollectorRegistry", port: int, why_unhealthy: Callable[[], str] | None) -> None:
        self.registry = registry
        self.why_unhealthy = why_unhealthy
        self.paths = [PATH] if why_unhealthy is None else [PATH, HEALTH_PATH]
        self._free = threading.Semaphore(_AT_ONCE)
        super().__init__((_HOST, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # and no look-up of this machine's name, which can take seconds

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A reader that hangs up is no error."""


def _is_of_this_machine(hosts: list[str]) -> bool:
    """Whether the one `Host` of a request names this machine, with or without a port."""
    try:
        [host] = hosts
        return host.isascii() and read_address(host, default_port=0).host in _NAMES
    except (ValueError, ConfigError):
        return False


class _Handler(BaseHTTPRequestHandler):
    """Answers `GET /metrics` and `GET /healthz`, for those who call this machine by a name of its own."""

    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _REQUEST_TIMEOUT_S

    def parse_request(self) -> bool:
        """Read the head of a request; False if it has been refused."""
        if not super().parse_request():
            return False
        if not _is_of_this_machine(self.headers.get_all("Host", [])):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"Invalid Host header\n")
        elif self._path not in self.server.paths:
            paths = " and ".join(self.server.paths)
            self._answer(HTTPStatus.NOT_FOUND, f"there is {paths}, and nothing else\n".encode())
        elif self.command != "GET":
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET\n", Allow="GET")
        else:
            return True
        return False

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def do_GET(self) -> None:  # the name is the standard library's
        """Answer with all metrics, in the form that the reader asks for, or with the health of the process."""
        if self._path == HEALTH_PATH and self.server.why_unhealthy is not None:
            why = self.server.why_unhealthy()
            status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
            health = {"status": "unhealthy", "why": why} if why else {"status": "ok"}
            self._answer(status, json.dumps(health).encode(), **{"Content-Type": "application/json"})
            return
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(HTTPStatus.OK, encode(self.server.registry), **{"Content-Type": content_type})

    def _answer(self, status: HTTPStatus, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=utf-8", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Nothing about the Python that runs here."""
        return "agentbus"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""
