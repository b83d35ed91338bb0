"""Writes to the server in batches: what is sent in one round of the event loop is written in one piece.

nats-py wakes a task for each message. A write costs several times what making the message does, since it makes the
server read. With `batch_writes=False` nothing of nats-py's own way of writing is replaced.
"""

import asyncio
import re
from typing import Any, Final

from agentbus.bus.nats_contract import NatsClient, errors
from agentbus.protocol.headers import Headers

_DELAY_S: Final = 0.001
"""How long a message without `flush` waits for another one: short beside a round trip over loopback with a sync."""
_CATCH_UP_S: Final = 0.1
"""How often `catch_up` looks again: nats-py answers sooner, unless the connection breaks."""
_ONE_LINE: Final = str.maketrans("\r\n", "  ")
_ENDS_TOKEN: Final = re.compile(r"[ \t\r\n]")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class BatchingClient(NatsClient):
    """A NATS client that checks what it sends, and writes it in batches.

    Args:
        batch_writes: otherwise nats-py's own task writes each message.
    """

    def __init__(self, *, batch_writes: bool) -> None:
        super().__init__()
        self._batch_writes = batch_writes
        self._write_soon: asyncio.Handle | None = None
        self._write_later: asyncio.TimerHandle | None = None

    def send(self, subject: str, data: bytes, reply: str, headers: Headers | None, *, flush: bool) -> None:
        """Publish a message. Without `flush` it may wait a millisecond, to be written together with the next one.

        It returns before the server has taken the message: see `catch_up`.

        Raises:
            NatsError: a subject or the name of a header would break the protocol, or the connection has ended.
        """
        if not subject or _ENDS_TOKEN.search(subject) or _ENDS_TOKEN.search(reply):
            raise errors.BadSubjectError
        if self.is_closed:
            raise errors.ConnectionClosedError
        if headers:
            head = f"NATS/1.0\r\n{''.join([_header(*header) for header in headers.items()])}\r\n".encode()
            line = f"HPUB {subject} {reply} {len(head)} {len(head) + len(data)}\r\n"
            message = b"".join((line.encode(), head, data, b"\r\n"))
        else:
            message = b"".join((f"PUB {subject} {reply} {len(data)}\r\n".encode(), data, b"\r\n"))
        self._pending.append(message)
        self._pending_data_size += len(message)
        if self._batch_writes:
            self._schedule_write(flush=flush)
        else:
            self._wake_flusher()

    async def catch_up(self) -> None:
        """Wait for the server if it does not keep up with what is sent."""
        # Not by `_flush_pending(force_flush=True)`, which swallows a cancellation.
        while self._pending_data_size > self._max_pending_size and self.is_connected:
            written = self._wake_flusher()
            await asyncio.wait({written}, timeout=_CATCH_UP_S)

    def _wake_flusher(self) -> asyncio.Future[Any]:
        """Have nats-py's task write all that is pending; returns what that task resolves, unless it is busy."""
        written = asyncio.get_running_loop().create_future()
        if self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(written)
        return written

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # as in nats-py, which wakes a task for it
        if force_flush or not self._batch_writes or not self.is_connected:
            return await super()._flush_pending(force_flush)
        self._schedule_write(flush=True)
        return None

    def _schedule_write(self, *, flush: bool) -> None:
        """Write at the beginning of the loop's next round, or a moment later without `flush`."""
        loop = asyncio.get_running_loop()
        if flush:
            self._write_soon = self._write_soon or loop.call_soon(self._write)
        elif self._write_soon is None:
            self._write_later = self._write_later or loop.call_later(_DELAY_S, self._write)

    def _write(self) -> None:
        """Write all that is pending. If the server does not keep up, nats-py's task does that and waits for it."""
        for handle in (self._write_soon, self._write_later):
            if handle is not None:
                handle.cancel()
        self._write_soon = self._write_later = None
        writer = getattr(self._transport, "_io_writer", None)
        if not self.is_connected or writer is None or writer.transport.is_closing():
            return  # nats-py sends it once it is connected again
        if writer.transport.get_write_buffer_size() > 0:
            self._wake_flusher()
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        if pending:
            writer.write(b"".join(pending))


def _header(name: str, value: str) -> str:
    """Write a line of a message's head. Line breaks in a value become spaces, so that it cannot begin another line."""
    if not _HEADER_NAME.fullmatch(name):
        raise errors.BadHeaderError(name)
    return f"{name}: {value.strip().translate(_ONE_LINE)}\r\n"
