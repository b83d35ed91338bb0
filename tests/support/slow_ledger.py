"""A link to the server on which everything is fast but the ledger: what concerns it is held back for a while."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from support.connections import HOST, Connections, accepting

_LEDGER = (b"$KV.AGENT_STATE.", b"$JS.API.DIRECT.GET.KV_AGENT_STATE")


class SlowLedger:
    """A proxy that reads what clients say; what is meant for the ledger reaches the server `delay_s` seconds late."""

    def __init__(self, upstream: str) -> None:
        self._upstream = int(upstream.rpartition(":")[2])
        self.connections = Connections(self._serve)
        self.delay_s = 0.0
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(HOST, self._upstream)
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
    async with accepting(link.connections, limit=2**24) as port:
        link.url = f"nats://{HOST}:{port}"
        yield link
