"""HTTP byte by byte, for requests that no client library would send."""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from agentbus.protocol.json_codec import encode
from support.harness import BOUND_S, SUPPORT
from support.mcp_harness import NOWHERE, HttpServer, http_server_of

TOKEN = "3f9ad2c04b7e4c55a1f0"
KNOWN = f"Authorization: Bearer {TOKEN}"
ACCEPT = ("Accept: application/json, text/event-stream", "Content-Type: application/json")


@asynccontextmanager
async def bounded_server(
    log: Path, *, nats_url: str = NOWHERE, connections: int = 1_000, **settings: Any
) -> AsyncGenerator[HttpServer]:
    """The real server process with bounds of a test's own."""
    values = encode({"nats_url": nats_url, "connections": connections, **settings}).decode()
    async with http_server_of([sys.executable, str(SUPPORT / "bounded_http_server.py"), values], log) as mcp:
        yield mcp


class Raw:
    """A connection to a server, with what came back so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.received = b""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, source: str = "127.0.0.1") -> AsyncGenerator[Self]:
        """Connect, from an address of loopback."""
        host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
        streams = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
        try:
            yield cls(*streams)
        finally:
            streams[1].transport.abort()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def trickle(self, data: bytes) -> None:
        """Send byte after byte, for as long as the server takes them."""
        with contextlib.suppress(OSError):
            for byte in data:
                await self.send(bytes([byte]))
                await asyncio.sleep(0.05)

    async def until(self, text: bytes) -> bytes:
        """Read until the server has sent a text."""
        async with asyncio.timeout(BOUND_S):
            while text not in self.received:
                more = await self._reader.read(65_536)
                assert more, f"closed after {self.received!r}"
                self.received += more
        return self.received

    async def until_closed(self) -> bytes:
        """Read until the server has closed the connection; returns everything that it sent."""
        async with asyncio.timeout(BOUND_S):
            with contextlib.suppress(ConnectionResetError):
                while more := await self._reader.read(65_536):
                    self.received += more
        return self.received

    @property
    def statuses(self) -> list[int]:
        """The status of each answer so far."""
        return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.received)]


def head(line: str = "POST /mcp HTTP/1.1", *lines: str, host: str | None = "localhost") -> bytes:
    """The head of a request; each of `lines` is a header as it stands there."""
    hosts = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([line, *hosts, *lines, "", ""]).encode("latin-1")
