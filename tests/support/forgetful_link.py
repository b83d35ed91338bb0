"""A link to the server like that of a NAT that forgets connections: nothing passes any more, and nothing says so."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

_HOST = "127.0.0.1"
_CHUNK = 65_536


class ForgetfulLink:
    """A proxy before a server.

    Attributes:
        bytes_per_s: how fast it passes on what clients send; None for as fast as it can.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = int(upstream.rpartition(":")[2])
        self._serving: set[asyncio.Task[None]] = set()
        self._generation = 0
        self.bytes_per_s: float | None = None
        self.url = ""

    def forget(self) -> None:
        """Swallow what comes over the present connections, in both directions; new ones work."""
        self._generation += 1

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        generation = self._generation
        try:
            # Not raised further: the end of the link cancels this, and asyncio would report that as a fault.
            with suppress(asyncio.CancelledError, OSError):
                server_reader, server_writer = await asyncio.open_connection(_HOST, self._upstream)
                ways = [
                    asyncio.create_task(self._pass(reader, server_writer, generation, slowly=True)),
                    asyncio.create_task(self._pass(server_reader, writer, generation)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    server_writer.transport.abort()  # first, as this may be cancelled once more
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, generation: int, *, slowly: bool = False
    ) -> None:
        while data := await reader.read(_CHUNK):
            if generation == self._generation:
                if slowly and self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                writer.write(data)
                await writer.drain()

    async def end(self) -> None:
        """Break all connections."""
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)


@asynccontextmanager
async def forgetful_link(upstream: str) -> AsyncGenerator[ForgetfulLink]:
    """The link, before the server at the URL `upstream`."""
    link = ForgetfulLink(upstream)
    listener = await asyncio.start_server(link.accept, _HOST, 0, limit=_CHUNK)
    link.url = f"nats://{_HOST}:{listener.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        listener.close()
        await link.end()
