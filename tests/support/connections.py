"""Connections that a test accepts on a port of this machine: each is served by a coroutine, and none is left behind."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

HOST = "127.0.0.1"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Connections:
    """The connections that a coroutine serves; each of them lasts no longer than its coroutine."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._serving: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            # Not raised further: `cut` cancels this, and asyncio would report that as a fault.
            with suppress(asyncio.CancelledError, OSError):
                await self._serve(reader, writer)
        finally:
            # Without waiting for its end: of a connection whose TLS handshake has failed, asyncio never tells it.
            writer.transport.abort()
            self._serving.discard(task)

    async def cut(self) -> None:
        """Break all connections; new ones are accepted."""
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)


async def stop_listening(server: asyncio.Server) -> None:
    """Accept no more connections, and let each that was accepted reach the coroutine that serves it.

    asyncio takes some rounds of its loop for that. It loses a connection that is still on its way when the server is
    closed, and that is never closed then.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        with suppress(NotImplementedError):  # Windows
            loop.remove_reader(listening.fileno())
    for _ in range(5):
        await asyncio.sleep(0)
    server.close()


@asynccontextmanager
async def accepting(connections: Connections, *, limit: int = 2**16) -> AsyncGenerator[int]:
    """Accept connections on a free port for the length of the block, of which `limit` bytes are read ahead."""
    listener = await asyncio.start_server(connections.accept, HOST, 0, limit=limit)
    try:
        yield int(listener.sockets[0].getsockname()[1])
    finally:
        await stop_listening(listener)
        await connections.cut()
