"""Stands between clients and a server, and holds their connections. What passes is up to the links made of it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from support.fake_server import stop_listening

HOST = "127.0.0.1"
_Link = TypeVar("_Link", bound="Relay")


class Relay(ABC):
    """A proxy before the server at the URL `upstream`; clients reach it at `url`."""

    def __init__(self, upstream: str) -> None:
        self._upstream = int(upstream.rpartition(":")[2])
        self._serving: set[asyncio.Task[None]] = set()
        self.url = ""

    @abstractmethod
    def ways(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
        """What passes from the client of a new connection to the server, and back; the first to end ends both."""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client until it ends."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            # Not raised further: the end of the link cancels this, and asyncio would report that as a fault.
            with suppress(asyncio.CancelledError, OSError):
                server = await asyncio.open_connection(HOST, self._upstream)
                ways = [asyncio.create_task(way) for way in self.ways((reader, writer), server)]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    server[1].transport.abort()  # first, as this may be cancelled once more
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def cut(self) -> None:
        """Break all connections; new ones are accepted."""
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)


@asynccontextmanager
async def relayed(link: _Link, *, limit: int) -> AsyncGenerator[_Link]:
    """The link, once it accepts connections, of which `limit` bytes are read ahead; its connections are broken then."""
    listener = await asyncio.start_server(link.accept, HOST, 0, limit=limit)
    link.url = f"nats://{HOST}:{listener.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        await stop_listening(listener)
        await link.cut()
