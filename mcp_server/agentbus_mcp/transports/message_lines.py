"""Carries messages of JSON-RPC over two files, one on a line. Each request that was read is answered."""

import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import BinaryIO, Final, TypeAlias

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import INTERNAL_ERROR, JSONRPCError, JSONRPCMessage, JSONRPCRequest, JSONRPCResponse

from agentbus_mcp.transports.message_line import Refusal, read_message

log = logging.getLogger("agentbus.mcp")

Streams: TypeAlias = tuple[
    MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]
]

_LAST_ANSWERS_S: Final = 15.0
"""How long calls that were read before the end of input may take: longer than one waits for a connection to the bus,
and for the bus to store a task."""


class MessageLines:
    """The lines of one client."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._reading = anyio.CancelScope()
        self._last_answers = anyio.CancelScope()
        self._writing = anyio.Lock()
        self._unanswered = 0
        self._answered = anyio.Event()

    @asynccontextmanager
    async def open(self, at_end: Callable[[], None]) -> AsyncGenerator[Streams]:
        """Yield the messages that come in, and a stream for those that go out.

        At the end of the input `at_end` is called: it ends what would go on for as long as the client is there. The
        messages end when all requests are answered, or after 15 s.

        Raises:
            OSError: in a group, as the output cannot be written to: usually the client has closed it.
        """
        incoming, messages = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        answers, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                async with incoming:
                    with self._reading:
                        await self._read(incoming, lambda refusal: group.start_soon(self._refuse, refusal))
                    at_end()
                    await self._wait_for_answers()

            group.start_soon(read)
            group.start_soon(self._write, outgoing)
            yield messages, answers

    def stop(self, within_s: float) -> None:
        """Do as at the end of the input, and end the messages within a time."""
        self._reading.cancel()
        self._last_answers.deadline = min(self._last_answers.deadline, anyio.current_time() + within_s)

    async def _read(
        self, incoming: MemoryObjectSendStream[SessionMessage | Exception], refuse: Callable[[Refusal], object]
    ) -> None:
        while line := await to_thread.run_sync(self._read_line, abandon_on_cancel=True):
            if not (text := line.strip()):
                continue
            message = read_message(text)
            if isinstance(message, Refusal):
                log.warning("a line of the client is refused: %s", message.reason)
                self._unanswered += 1
                refuse(message)
            elif isinstance(message, JSONRPCRequest):
                self._unanswered += 1
                await incoming.send(SessionMessage(message, ServerMessageMetadata(on_request_unanswered=self._settle)))
            else:
                await incoming.send(SessionMessage(message))

    def _read_line(self) -> bytes:
        try:
            return self._source.readline()
        except OSError as error:  # a terminal that is gone, or no file to read from
            log.info("standard input cannot be read: %s", error.strerror)
            return b""

    async def _wait_for_answers(self) -> None:
        bound = anyio.current_time() + _LAST_ANSWERS_S
        self._last_answers.deadline = min(self._last_answers.deadline, bound)
        with self._last_answers:
            while self._unanswered > 0:
                self._answered = anyio.Event()
                await self._answered.wait()

    async def _settle(self) -> None:
        """Count a request as answered: it was, or its client has cancelled it."""
        self._unanswered -= 1
        self._answered.set()

    async def _refuse(self, refusal: Refusal) -> None:
        for request_id in refusal.ids:
            await self._put(refusal.answer(request_id))
        await self._settle()

    async def _write(self, outgoing: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with outgoing:
            async for item in outgoing:
                await self._put(_line(item.message))
                if isinstance(item.message, JSONRPCResponse | JSONRPCError):
                    await self._settle()

    async def _put(self, line: bytes) -> None:
        async with self._writing:
            await to_thread.run_sync(self._write_line, line, abandon_on_cancel=True)

    def _write_line(self, line: bytes) -> None:
        self._sink.write(line)
        self._sink.flush()


def _line(message: JSONRPCMessage) -> bytes:
    """Write a message on one line; in place of an answer that cannot be written, an error."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except ValueError:
        log.exception("an answer cannot be written")
        request_id = message.id if isinstance(message, JSONRPCResponse | JSONRPCError) else None
        error = {"code": INTERNAL_ERROR, "message": "the answer cannot be written as JSON"}
        return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"
