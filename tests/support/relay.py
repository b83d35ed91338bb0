"""Stands between clients and a server, and holds their connections. What passes is up to the links made of it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from support.connections import HOST, Connections, accepting

_Link = TypeVar("_Link", bound="Relay")


class Relay(ABC):
    """A proxy before the server at the URL `upstream`; clients reach it at `url`."""

    def __init__(self, upstream: str) -> None:
        self._upstream = int(upstream.rpartition(":")[2])
        self.connections = Connections(self._relay)
        self.url = ""

    @abstractmethod
    def ways(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
        """What passes from the client of a new connection to the server, and back; the first to end ends both."""

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = await asyncio.open_connection(HOST, self._upstream)
        ways = [asyncio.create_task(way) for way in self.ways((reader, writer), server)]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server[1].transport.abort()  # first, as this may be cancelled once more
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def cut(self) -> None:
        """Break all connections; new ones are accepted."""
        await self.connections.cut()


@asynccontextmanager
async def relayed(link: _Link, *, limit: int) -> AsyncGenerator[_Link]:
    """The link, once it accepts connections, of which `limit` bytes are read ahead; its connections are broken then."""
    async with accepting(link.connections, limit=limit) as port:
        link.url = f"nats://{HOST}:{port}"
        yield link
