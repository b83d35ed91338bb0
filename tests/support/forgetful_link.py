"""A link to the server like that of a NAT that forgets connections: nothing passes any more, and nothing says so."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from support.relay import Relay, relayed

_CHUNK = 65_536


class ForgetfulLink(Relay):
    """A proxy before a server.

    Attributes:
        bytes_per_s: how fast it passes on what clients send; None for as fast as it can.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._generation = 0
        self.bytes_per_s: float | None = None

    def forget(self) -> None:
        """Swallow what comes over the present connections, in both directions; new ones work."""
        self._generation += 1

    def ways(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
        generation = self._generation
        return (
            self._pass(client[0], server[1], generation, slowly=True),
            self._pass(server[0], client[1], generation),
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, generation: int, *, slowly: bool = False
    ) -> None:
        while data := await reader.read(_CHUNK):
            if generation == self._generation:
                if slowly and self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def forgetful_link(upstream: str) -> AsyncGenerator[ForgetfulLink]:
    """The link, before the server at the URL `upstream`."""
    async with relayed(ForgetfulLink(upstream), limit=_CHUNK) as link:
        yield link
