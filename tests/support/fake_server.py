"""A port on this machine whose clients are served by a coroutine of the test; it leaves no connection behind."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


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
async def fake_server(serve: Serve) -> AsyncGenerator[int]:
    """Listen on a free port for the length of the block; `serve` is called for each client."""
    serving: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            # Not raised further: the end of the block cancels this, and asyncio would report that as a fault.
            with suppress(asyncio.CancelledError, OSError):
                await serve(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
            serving.discard(task)

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            await stop_listening(server)
            left = tuple(serving)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
