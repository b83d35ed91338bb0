"""A link to the server on which everything is fast but the ledger: what concerns it is held back for a while."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

_HOST = "127.0.0.1"
_LEDGER = (b"$KV.AGENT_STATE.", b"$JS.API.DIRECT.GET.KV_AGENT_STATE")


class SlowLedger:
    """A proxy that reads what clients say; what is meant for the ledger reaches the server `delay_s` seconds late."""

    def __init__(self, upstream: str) -> None:
        self._upstream = int(upstream.rpartition(":")[2])
        self._serving: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.url = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            # Not raised further: the end of the link cancels this, and asyncio would report that as a fault.
            with suppress(asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(_HOST, self._upstream)
        try:
            async with asyncio.TaskGroup() as group:
                down = group.create_task(_copy(server_reader, writer))
                up = group.create_task(self._say(reader, server_writer, group))
                await asyncio.wait({down, up}, return_when=asyncio.FIRST_COMPLETED)
                raise _HungUpError
        except* (_HungUpError, OSError):
            pass
        finally:
            server_writer.transport.abort()

    async def _say(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, group: asyncio.TaskGroup) -> None:
        """Pass on one protocol line after the other, a message with its payload."""
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                line = await reader.readuntil(b"\r\n")
                words = line.split()
                if words and words[0].upper() in (b"PUB", b"HPUB"):
                    line += await reader.readexactly(int(words[-1]) + 2)
                    if words[1].startswith(_LEDGER) and self.delay_s:
                        group.create_task(_later(self.delay_s, writer, line))
                        continue
                writer.write(line)
                await writer.drain()

    async def end(self) -> None:
        for task in tuple(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)


class _HungUpError(Exception):
    """One side has ended the connection."""


async def _later(delay_s: float, writer: asyncio.StreamWriter, data: bytes) -> None:
    await asyncio.sleep(delay_s)
    writer.write(data)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def slow_ledger(upstream: str) -> AsyncGenerator[SlowLedger]:
    """The link, before the server at the URL `upstream`; its own URL is `url`."""
    link = SlowLedger(upstream)
    listener = await asyncio.start_server(link.accept, _HOST, 0, limit=2**24)
    link.url = f"nats://{_HOST}:{listener.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        listener.close()
        await link.end()
