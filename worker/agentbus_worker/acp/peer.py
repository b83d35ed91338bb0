"""Speaks JSON-RPC over the pipes of an agent, a message a line. Whatever comes is read in bounded memory.

The official package would do it as well, but it takes most of a second of processor time to load, an unknown update is
an error there, and one line that is no object ends its connection.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentbus_worker.acp.json_values import Object, object_in
from agentbus_worker.formats.lines import Lines

RequestId: TypeAlias = str | int | None

MAX_LINE_BYTES: Final = 4_194_304
"""The longest line that is read, half of what the worker reads: it is written again with a little around it."""
METHOD_NOT_FOUND: Final = -32601
_CHUNK: Final = 65_536


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a request: a result, an error of the agent, or neither, where the agent is gone."""

    result: Object | None = None
    error: Object | None = None


class Peer:
    """One end of the conversation with an agent.

    Args:
        on_request: called with the id, the method and the parameters of a request of the agent.
        on_notification: called with the method and the parameters of a notification.
        on_foreign: called with what is no message: the beginning of a line, or None for one that is too long.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        on_request: Callable[[RequestId, str, Object], Awaitable[None]],
        on_notification: Callable[[str, Object], Awaitable[None]],
        on_foreign: Callable[[bytes | None], Awaitable[None]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_request = on_request
        self._on_notification = on_notification
        self._on_foreign = on_foreign
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._last_id = 0
        self._gone = False

    async def read(self) -> None:
        """Read until the agent closes its standard output. Messages are taken one after the other, in their order."""
        lines = Lines(MAX_LINE_BYTES)
        try:
            while chunk := await self._reader.read(_CHUNK):
                skipped = lines.skipped
                for line in lines.feed(chunk):
                    await self._take(line)
                for _ in range(lines.skipped - skipped):
                    await self._on_foreign(None)
            await self._take(lines.rest())
        finally:
            self._gone = True
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(Reply())
            self._waiting.clear()

    async def call(self, method: str, params: Object) -> Reply:
        """Send a request, and wait for what becomes of it."""
        if self._gone:
            return Reply()
        self._last_id += 1
        answer = self._waiting[self._last_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send({"id": self._last_id, "method": method, "params": params})
            return await answer
        finally:
            self._waiting.pop(self._last_id, None)

    async def notify(self, method: str, params: Object) -> None:
        """Send a notification."""
        await self._send({"method": method, "params": params})

    async def answer(self, request: RequestId, result: Object) -> None:
        """Answer a request of the agent."""
        await self._send({"id": request, "result": result})

    async def refuse(self, request: RequestId, code: int, message: str) -> None:
        """Answer a request of the agent with an error."""
        await self._send({"id": request, "error": {"code": code, "message": message}})

    async def _send(self, message: Object) -> None:
        # In ASCII: some readers of lines take U+2028 for the end of one.
        line = json.dumps({"jsonrpc": "2.0", **message}).encode()
        try:
            self._writer.write(line + b"\n")
            await self._writer.drain()
        except OSError:  # it reads no more, and its end is read soon
            return

    async def _take(self, line: bytes) -> None:
        message = _object_of(line)
        method, request = message.get("method"), message.get("id")
        if isinstance(method, str) and not isinstance(request, (list, dict, float, bool)):
            params = object_in(message.get("params"))
            if "id" in message:
                await self._on_request(request, method, params)
            else:
                await self._on_notification(method, params)
        elif isinstance(request, int) and method is None and ("result" in message or "error" in message):
            self._settle(request, message)
        elif line.strip():
            await self._on_foreign(line)

    def _settle(self, request: int, message: Object) -> None:
        waiting = self._waiting.get(request)
        if waiting is None or waiting.done():
            return  # answered twice, or never asked
        if message.get("error") is not None:
            error = message["error"]
            waiting.set_result(Reply(error=object_in(error) or {"message": str(error)}))
        else:
            waiting.set_result(Reply(result=object_in(message.get("result"))))


def _object_of(line: bytes) -> Object:
    if not line.lstrip().startswith(b"{"):
        return {}
    try:
        return object_in(json.loads(line, parse_constant=lambda _: None))
    except (ValueError, RecursionError):
        return {}
