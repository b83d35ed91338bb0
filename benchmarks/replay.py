"""Records what a client says to a server, and says the same again: the bare requests, with nothing made of the answers.

A piece that the client has sent is sent again once as many messages have come as had come before it was sent. So what
waits for an answer waits here, too, and nothing else does.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agentbus.protocol.ids import random_token

_MESSAGE = re.compile(rb"H?MSG [^\r\n]*? (\d+)\r\n")
_FEED = re.compile(rb"(\bfeed-[a-z0-9]{16})[a-z0-9]{4}")
_WAIT_S = 60.0


@dataclass
class Counter:
    """Counts the messages in what a server sends."""

    count: int = 0
    _rest: bytes = b""
    _skip: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, data: bytes) -> None:
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        data, self._skip = self._rest + data[self._skip :], 0
        self._rest = b""
        while data:
            end = data.find(b"\r\n")
            if end < 0:
                self._rest = data
                return
            line, data = data[: end + 2], data[end + 2 :]
            if (found := _MESSAGE.fullmatch(line)) is not None:
                size = int(found[1]) + 2
                self.count += 1
                self._skip, data = max(0, size - len(data)), data[size:]
                self.arrived.set()


@dataclass
class Recording:
    """What a client said: each piece with how many messages had come before it, and how many came in all."""

    pieces: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    counter: Counter = field(default_factory=Counter)
    begins: tuple[int, int] = (0, 0)
    ends: int = 0
    length: int = 0

    def begin(self) -> None:
        """What is measured begins here: what came before is the sign-in, and what the client had done earlier."""
        self.begins = len(self.pieces), self.counter.count

    def end(self) -> None:
        self.length, self.ends = len(self.pieces), self.counter.count

    async def again(self, port: int) -> float:
        """Say the same again; returns the milliseconds that what is measured took."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        counter, started = Counter(), 0.0
        other = random_token(4).encode()  # the consumers of the recording have given out their messages

        async def read() -> None:
            while data := await reader.read(1 << 18):
                counter.take(data)

        reading = asyncio.ensure_future(read())
        try:
            for number, (before, piece) in enumerate(self.pieces[: self.length]):
                await _until(counter, before)
                if number == self.begins[0]:
                    await asyncio.sleep(0.05)  # what was said before is done
                    started = time.perf_counter()
                writer.write(_FEED.sub(rb"\g<1>" + other, piece))
            await _until(counter, self.ends)
            return (time.perf_counter() - started) * 1000
        finally:
            reading.cancel()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _until(counter: Counter, count: int) -> None:
    async with asyncio.timeout(_WAIT_S):
        while counter.count < count:
            counter.arrived.clear()
            await counter.arrived.wait()


@asynccontextmanager
async def recorded(port: int) -> AsyncGenerator[tuple[str, list[Recording]]]:
    """Pass connections on to a server; yields where, and a recording of each connection."""
    recordings: list[Recording] = []
    open_now: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recording = Recording()
        recordings.append(recording)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        open_now.update((writer, back))

        async def said() -> None:
            while data := await reader.read(1 << 18):
                recording.pieces.append((recording.counter.count, data))
                back.write(data)

        async def answered() -> None:
            while data := await there.read(1 << 18):
                recording.counter.take(data)
                writer.write(data)

        with contextlib.suppress(ConnectionError):
            await asyncio.wait(
                {asyncio.ensure_future(said()), asyncio.ensure_future(answered())},
                return_when=asyncio.FIRST_COMPLETED,
            )
        for one in (writer, back):
            one.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", recordings
    finally:
        server.close()
        for one in open_now:
            one.close()
