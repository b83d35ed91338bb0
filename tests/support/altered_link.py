"""A link to the server on which single messages are changed or lost on their way to the client."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from agentbus.bus.jetstream import Bus
from agentbus.protocol import subjects
from support.relay import Relay, relayed

_LONGEST_LINE = 2**24

Change = Callable[[bytes], bytes | None]
"""Makes of a payload what arrives in its place; None if the message gets lost."""


class Whole(bytes):
    """All of a message, with its headers, in place of its payload alone."""


def unknown(_: bytes) -> bytes:
    """The server has no such message, as a replica says that lags behind."""
    return Whole(b"NATS/1.0 404 Message Not Found\r\n\r\n")


async def as_now(bus: Bus, stream: str, subject: str) -> Change:
    """The newest message of a subject is the one of now, whatever is stored later, as for a replica that lags behind.

    Of answers to direct gets that name the subject.
    """
    found = await bus.request(subjects.last_of(stream, subject))
    head = "".join(f"{name}: {text}\r\n" for name, text in (found.headers or {}).items())
    whole = Whole(f"NATS/1.0\r\n{head}\r\n".encode() + found.data)
    return lambda _: whole


def lost(_: bytes) -> None:
    """The message does not arrive."""


def once(change: Change) -> Change:
    """The first message is changed, those after it arrive as they are."""
    return at_first(1, change)


def at_first(count: int, change: Change) -> Change:
    """So many messages are changed, those after them arrive as they are."""
    left = [change] * count
    return lambda data: left.pop()(data) if left else data


def refused(err_code: int, description: str, *, code: int = 400) -> Change:
    """JetStream refuses the request that it has carried out in truth."""
    error = {"code": code, "err_code": err_code, "description": description}
    return lambda _: json.dumps({"error": error}).encode()


def without(*names: str) -> Change:
    """The answer lacks fields, as that of an older server does."""

    def change(data: bytes) -> bytes:
        return json.dumps({name: value for name, value in json.loads(data).items() if name not in names}).encode()

    return change


class AlteredLink(Relay):
    """A proxy before a server.

    Attributes:
        changes: by the beginning of a subject, for the answers to requests on it, and for the messages on it.
        info: what INFO says besides, such as the name of a cluster.
        on_connect: called before a client's CONNECT is passed on.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.changes: dict[str, Change] = {}
        self.info: dict[str, Any] = {}
        self.on_connect: Callable[[], None] = lambda: None

    def ways(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
        asked: dict[bytes, bytes] = {}  # the subjects of requests, by those of their answers
        return self._to_server(client[0], server[1], asked), self._to_client(server[0], client[1], asked)

    async def _to_server(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[bytes, bytes]
    ) -> None:
        while True:
            line = await reader.readuntil(b"\r\n")
            words = line.split()
            match words[0].upper() if words else b"":
                case b"CONNECT":
                    self.on_connect()
                case b"PUB" | b"HPUB":
                    if len(words) == (4 if words[0] == b"PUB" else 5):
                        asked[words[2]] = words[1]
                    line += await reader.readexactly(int(words[-1]) + 2)
                case _:
                    pass
            writer.write(line)
            await writer.drain()

    async def _to_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[bytes, bytes]
    ) -> None:
        while True:
            line = await reader.readuntil(b"\r\n")
            verb, *words = line.split()
            if verb == b"INFO" and self.info:
                line = b"INFO " + json.dumps({**json.loads(line[5:]), **self.info}).encode() + b"\r\n"
            elif verb in (b"MSG", b"HMSG"):
                whole = (await reader.readexactly(int(words[-1]) + 2))[:-2]
                head = int(words[-2]) if verb == b"HMSG" else 0
                data = self._changed((words[0], asked.get(words[0], b"")), whole[head:])
                if data is None:
                    continue
                message = data if isinstance(data, Whole) else whole[:head] + data
                if isinstance(data, Whole):
                    head = data.index(b"\r\n\r\n") + 4
                sizes = [b"%d" % head] if head else []
                route = words[: -2 if verb == b"HMSG" else -1]
                words = [b"HMSG" if head else b"MSG", *route, *sizes, b"%d" % len(message)]
                line = b" ".join(words) + b"\r\n" + message + b"\r\n"
            writer.write(line)
            await writer.drain()

    def _changed(self, subjects: tuple[bytes, bytes], data: bytes) -> bytes | None:
        for beginning, change in self.changes.items():
            if any(subject.startswith(beginning.encode()) for subject in subjects):
                return change(data)
        return data


@asynccontextmanager
async def altered_link(upstream: str) -> AsyncGenerator[AlteredLink]:
    """The link, before the server at the URL `upstream`."""
    async with relayed(AlteredLink(upstream), limit=_LONGEST_LINE) as link:
        yield link
