"""Metrics for Prometheus over HTTP, for this machine alone.

A few threads of their own serve them: neither making the text nor a slow reader holds up the event
loop, and an event loop that stands still can still be asked. The library `prometheus-client` is an extra, and is loaded
when metrics are served; the HTTP server is the standard library's, which has what `GET /metrics` needs.
"""

import os
import threading
from collections.abc import Generator
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
def exposed(registry: "CollectorRegistry", port: int) -> Generator[str]:
    """Serve the metrics of `registry` on loopback for the length of the block; gives the URL. Port 0 is any free one.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server = _Server(registry, port)
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

    def __init__(self, registry: "CollectorRegistry", port: int) -> None:
        self.registry = registry
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
    """Answers `GET /metrics`, for those who call this machine by a name of its own."""

    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _REQUEST_TIMEOUT_S

    def parse_request(self) -> bool:
        """Read the head of a request; False if it has been refused."""
        if not super().parse_request():
            return False
        if not _is_of_this_machine(self.headers.get_all("Host", [])):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"Invalid Host header\n")
        elif self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, f"there is {PATH}, and nothing else\n".encode())
        elif self.command != "GET":
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET\n", Allow="GET")
        else:
            return True
        return False

    def do_GET(self) -> None:  # the name is the standard library's
        """Answer with all metrics, in the form that the reader asks for."""
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
