"""Writes to the server in batches: the first message of an iteration of the event loop at once, the others together.

nats-py wakes a task for each message. A write costs several times as much as building the message, and the server has
to read it. But a message that waits for no other gains nothing from the next iteration, which may first do what takes
longer than the write. With `batch_writes=False`, nats-py writes each message in its own way.
"""

import asyncio
import re
from typing import Any, Final

from agentbus.bus.nats_contract import NatsClient, errors
from agentbus.errors import TooLargeError
from agentbus.protocol.headers import Headers

_DELAY_S: Final = 0.001
"""How long a message without `flush` waits for the next one: less than a round trip with a sync takes over loopback."""
_CHECK_S: Final = 0.1
"""How often `wait_writable` checks again. nats-py wakes it sooner, unless the connection breaks."""
_MAX_SUBJECT_CHARS: Final = 1024
_ONE_LINE: Final = str.maketrans("\r\n", "  ")
_ENDS_TOKEN: Final = re.compile(r"[ \t\r\n]")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class BatchingClient(NatsClient):
    """A NATS client that checks what it sends, and writes it in batches.

    Args:
        batch_writes: whether to write in batches; nats-py's task writes each message otherwise.

    Attributes:
        sent_bytes: how much was sent so far, over all connections.
    """

    def __init__(self, *, batch_writes: bool) -> None:
        super().__init__()
        self._batch_writes = batch_writes
        self._write_soon: asyncio.Handle | None = None
        self._write_later: asyncio.TimerHandle | None = None
        self.sent_bytes = 0

    def send(self, subject: str, data: bytes, reply: str, headers: Headers | None, *, flush: bool) -> None:
        """Publish a message. Without `flush` it may wait a millisecond, to be written together with the next one.

        Returns before the message is written: see `wait_writable`.

        Raises:
            NatsError: a subject or the name of a header is not valid in the protocol, or the connection is closed.
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
        self.sent_bytes += len(message)
        if self._batch_writes:
            self._schedule_write(flush=flush)
        else:
            self._wake_flusher()

    @property
    def unwritten_bytes(self) -> int:
        """How much was sent and waits to be taken by the network."""
        writer = getattr(self._transport, "_io_writer", None)
        return self._pending_data_size + (writer.transport.get_write_buffer_size() if writer is not None else 0)

    async def wait_writable(self) -> None:
        """Wait while more is pending than nats-py allows, because the server reads too slowly."""
        # `_flush_pending(force_flush=True)` would swallow a cancellation.
        while self._pending_data_size > self._max_pending_size and self.is_connected:
            written = self._wake_flusher()
            await asyncio.wait({written}, timeout=_CHECK_S)

    def _wake_flusher(self) -> asyncio.Future[Any]:
        """Have nats-py's task write everything pending. It resolves the future that is returned, unless it is busy."""
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
        """Write now, and what follows until the next iteration of the event loop then.

        Without `flush`, write up to a millisecond later.
        """
        if self._write_soon is not None:
            return
        loop = asyncio.get_running_loop()
        if flush:
            self._write()
            self._write_soon = loop.call_soon(self._write)
        else:
            self._write_later = self._write_later or loop.call_later(_DELAY_S, self._write)

    def _write(self) -> None:
        """Write everything pending. If the server reads too slowly, nats-py's task writes it and waits."""
        for handle in (self._write_soon, self._write_later):
            if handle is not None:
                handle.cancel()
        self._write_soon = self._write_later = None
        writer = getattr(self._transport, "_io_writer", None)
        if not self.is_connected or writer is None or writer.transport.is_closing():
            return  # nats-py writes it after the reconnect
        if writer.transport.get_write_buffer_size() > 0:
            self._wake_flusher()
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        if pending:
            writer.write(b"".join(pending))


def _header(name: str, value: str) -> str:
    """Format a header line. Line breaks in the value become spaces, so that it cannot begin another line."""
    if not _HEADER_NAME.fullmatch(name):
        raise errors.BadHeaderError(name)
    value = value.strip()
    if "\n" in value or "\r" in value:  # translating what has none would cost as much as the rest of the message
        value = value.translate(_ONE_LINE)
    return f"{name}: {value}\r\n"


def check_size(subject: str, data: bytes, headers: Headers | None, max_bytes: int | None) -> None:
    """Refuse what the server would close the connection for, which takes `max_bytes`; None before it has told.

    Raises:
        TooLargeError: the subject, or the message with its headers, is over a limit.
    """
    if len(subject) > _MAX_SUBJECT_CHARS:  # no subject of ours is that long
        raise TooLargeError(
            f"a subject of {len(subject)} characters is longer than {_MAX_SUBJECT_CHARS}; nothing was sent"
        )
    if max_bytes is None:
        return
    size = len(data)
    if headers:
        size += 12 + sum([len(name) + 4 * len(value) + 4 for name, value in headers.items()])
        if size > max_bytes:  # counted with four bytes for each character; the exact size needs encoding
            size = len(data) + 12 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
    if size > max_bytes:
        raise TooLargeError(
            f"a message of {size} bytes for {subject} is larger than the {max_bytes} bytes that the server takes "
            "(max_payload); nothing was sent"
        )
