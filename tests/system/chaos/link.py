"""The link between a worker and the server: a TCP proxy that can be cut or paused."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from support.connections import stop_listening
from system.chaos.troubles import Troubles

_CHUNK = 65_536
_HOST = "127.0.0.1"


@dataclass(eq=False)
class _Pair:
    """One connection of a worker, and the one to the server that belongs to it."""

    writers: list[asyncio.StreamWriter]
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Link:
    """A proxy on a free port before the server at `upstream`, for one worker."""

    def __init__(self, upstream: int, worker: str, troubles: Troubles) -> None:
        self._upstream = upstream
        self._worker = worker
        self._troubles = troubles
        self._pairs: set[_Pair] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._hung_up = False
        self._cuts = asyncio.Lock()
        self.port = 0

    async def open(self) -> None:
        """Take connections; again on the same port after `_close_listener`."""
        while self._listener is None:
            try:
                self._listener = await asyncio.start_server(self._accept, _HOST, self.port)
            except OSError:
                if not self.port:
                    raise
                await asyncio.sleep(0.1)  # an outgoing connection has the port for a moment
        self.port = int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End it with all of its connections."""
        await self._close_listener()
        self._drop_all()
        if self._serving:
            await asyncio.wait(set(self._serving))

    async def cut(self, length_s: float, *, refuse: bool) -> None:
        """Drop every connection; for a while refuse new ones, or take them and hang up."""
        async with self._cuts:
            with self._troubles.lasting("cut", self._worker):
                await self._cut(length_s, refuse=refuse)

    async def _cut(self, length_s: float, *, refuse: bool) -> None:
        if refuse:
            await self._close_listener()
        self._hung_up = True
        self._drop_all()
        await asyncio.sleep(length_s)
        self._hung_up = False
        await self.open()

    async def stall(self, length_s: float) -> None:
        """Pause its connections for a while: data is late, and none is lost."""
        stalled = list(self._pairs)
        with self._troubles.lasting("cut", self._worker):
            for pair in stalled:
                pair.flowing.clear()
            await asyncio.sleep(length_s)
            for pair in stalled:
                pair.flowing.set()

    async def _close_listener(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await stop_listening(listener)

    def _drop_all(self) -> None:
        for pair in self._pairs:
            pair.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs this as a task"
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._hung_up:
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(_HOST, self._upstream)
        except OSError:
            return
        pair = _Pair([writer, server_writer])
        pair.flowing.set()
        self._pairs.add(pair)
        pumps = [
            asyncio.create_task(_pump(reader, server_writer, pair.flowing)),
            asyncio.create_task(_pump(server_reader, writer, pair.flowing)),
        ]
        try:
            if not self._hung_up:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.discard(pair)
            pair.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            await flowing.wait()
            writer.write(data)
            await writer.drain()
