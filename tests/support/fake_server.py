"""A port on this machine whose clients are served by a coroutine of the test; it leaves no connection behind."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from support.connections import Connections, Serve, accepting


@asynccontextmanager
async def fake_server(serve: Serve) -> AsyncGenerator[int]:
    """Listen on a free port for the length of the block; `serve` is called for each client."""

    async def to_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()  # what was written still goes out
        await writer.wait_closed()

    async with accepting(Connections(to_the_end)) as port:
        yield port
