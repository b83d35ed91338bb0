"""Records what a client asks a server, and asks the same again with plain nats-py: the bare requests.

A request is sent again once as many messages have come as had come before it was sent. So what waits for an answer
waits here, too, and nothing is made of the answers.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from agentbus.protocol.ids import random_token
from benchmarks.bare_bus import bare_bus

_MESSAGE = re.compile(rb"H?MSG [^\r\n]*? (\d+)\r\n")
_FEED = re.compile(rb"(\bfeed-[a-z0-9]{16})[a-z0-9]{4}")
_WAIT_S = 60.0


@dataclass
class Counter:
    """Counts the messages in what a server sends."""

    count: int = 0
    _rest: bytes = b""
    _skip: int = 0

    def take(self, data: bytes) -> None:
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        data, self._skip = self._rest + data[self._skip :], 0
        self._rest = b""
        while data:
            line, end, data = data.partition(b"\r\n")
            if not end:
                self._rest = line
            elif (found := _MESSAGE.fullmatch(line + end)) is not None:
                size = int(found[1]) + 2
                self.count += 1
                self._skip, data = max(0, size - len(data)), data[size:]


@dataclass
class Recording:
    """What a client said: each piece with how many messages had come before it, and how many came in all."""

    pieces: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    counter: Counter = field(default_factory=Counter)
    begins: int = 0
    before: int = 0
    ends: int = 0
    length: int = 0

    def begin(self) -> None:
        """What is measured begins here: of what came before, only the inboxes are needed."""
        self.begins, self.before = len(self.pieces), self.counter.count

    def end(self) -> None:
        self.length, self.ends = len(self.pieces), self.counter.count

    async def again(self, url: str, *, idle_s: float = 0.0) -> float:
        """Ask the same again; returns the milliseconds that what is measured took.

        Args:
            idle_s: for how long the connection is idle before that, as that of the client was: a machine that does
                other things meanwhile takes longer for what comes then.
        """
        arrived, count, started = asyncio.Event(), 0, 0.0
        other = random_token(4).encode()  # the consumers of the recording have given out their messages

        async def count_one(_: Msg) -> None:
            nonlocal count
            count += 1
            arrived.set()

        async def until(wanted: int) -> None:
            async with asyncio.timeout(_WAIT_S):
                while count < wanted:
                    arrived.clear()
                    await arrived.wait()

        async with bare_bus(url) as bare:
            for number, (before, piece) in enumerate(self.pieces[: self.length]):
                measured = number >= self.begins
                if number == self.begins:
                    await bare.client.flush()
                    await asyncio.sleep(idle_s)
                    started = time.perf_counter()
                if measured:
                    await until(before - self.before)
                for verb, words, data in _said(_FEED.sub(rb"\g<1>" + other, piece)):
                    if verb == "SUB":
                        await bare.client.subscribe(words[0], cb=count_one)  # pyright: ignore[reportUnknownMemberType]
                    elif verb == "PUB" and measured:
                        await bare.client.publish(words[0], data, reply=words[1] if len(words) > 2 else "")
                    elif verb == "HPUB":
                        raise ValueError("a request with headers is not asked again")
            await until(self.ends - self.before)
            return (time.perf_counter() - started) * 1000


def _said(piece: bytes) -> Iterator[tuple[str, list[str], bytes]]:
    """Yield what a client says in a piece: the verb, its words, and the payload of a message."""
    while piece:
        line, _, piece = piece.partition(b"\r\n")
        verb, *words = line.decode().split()
        size = int(words[-1]) if verb in ("PUB", "HPUB") else -2
        yield verb, words, piece[: max(0, size)]
        piece = piece[size + 2 :]


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
            both = {asyncio.ensure_future(said()), asyncio.ensure_future(answered())}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for one in (writer, back):
            one.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", recordings
    finally:
        server.close()
        for one in open_now:
            one.close()
