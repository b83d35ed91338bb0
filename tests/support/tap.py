"""A tap between client and server, which listens, and can be hostile."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from support.connections import HOST, Connections, accepting

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator


class Tap:
    """Stands between client and server and keeps what clients send.

    Can take the offer of TLS out of INFO (`strip`), show a certificate of his own (`impostor`), and write into the
    server's INFO (`lie`). What clients send to him while he is hostile is in `received_hostile`.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self.connections = Connections(self._serve)
        self.strip = False
        self.impostor: ssl.SSLContext | None = None
        self.lie: dict[str, Any] = {}
        self.port = 0
        self.received: list[bytearray] = []
        self.received_hostile: list[bytearray] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        strip, impostor, sent = self.strip, self.impostor, bytearray()
        (self.received_hostile if strip or impostor else self.received).append(sent)
        server_reader, server_writer = await asyncio.open_connection(HOST, self._upstream)
        try:
            info = await server_reader.readline()
            if strip or self.lie:
                offer = {**json.loads(info.removeprefix(b"INFO ")), **self.lie}
                shown = {key: value for key, value in offer.items() if not (strip and key.startswith("tls"))}
                info = b"INFO " + json.dumps(shown).encode() + b"\r\n"
            writer.write(info)
            if impostor is not None:
                with suppress(OSError):
                    await writer.start_tls(impostor)
                    await _keep(reader, sent)
                return
            ways = [
                asyncio.create_task(_pump(reader, server_writer, sent)),
                asyncio.create_task(_pump(server_reader, writer, bytearray())),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            server_writer.transport.abort()

    async def cut(self) -> None:
        """Break all connections."""
        await self.connections.cut()


async def _keep(reader: asyncio.StreamReader, copy: bytearray) -> None:
    while data := await reader.read(65536):
        copy += data


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, copy: bytearray) -> None:
    while data := await reader.read(65536):
        copy += data
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def tapped(upstream: int) -> AsyncGenerator[Tap]:
    """A tap on a way of its own to a server."""
    tap = Tap(upstream)
    async with accepting(tap.connections) as tap.port:
        yield tap
