"""Adds bounds to uvicorn's HTTP/1.1 for which it has no options: deadlines for requests, and limits of connections.

A request that does not arrive in time is answered with 408, or disconnected if its answer has begun. After a request
has arrived there is no deadline: an answer, such as a stream of events, may take any time.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import h11
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentbus_mcp.transports.http_settings import Bounds

_RECEIVING: Final = (h11.IDLE, h11.SEND_BODY)
"""The states of a client whose request has not arrived completely: its head, or its body."""
_UNANSWERED: Final = (h11.IDLE, h11.SEND_RESPONSE)

too_many_connections: Final[ASGIApp] = PlainTextResponse(
    "Too many connections from this address\n", status_code=429, headers={"Connection": "close"}
)


class Connections:
    """The open connections of a server.

    At the limit, the connection that has waited longest for its request is closed. So clients that only hold
    connections do not keep others out. A connection with a complete request is never closed for another.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._addresses: dict[BoundedHttp, str] = {}
        self._counts: Counter[str] = Counter()
        self._receiving: dict[BoundedHttp, None] = {}  # the one that has waited longest is first

    def admit(self, connection: "BoundedHttp", address: str) -> bool:
        """Add a connection; returns False if its address has too many, all with requests in progress."""
        self._addresses[connection] = address
        self._counts[address] += 1
        within = True
        if self._counts[address] > self.bounds.connections_of_one_address:
            within = _close_first(one for one in self._receiving if self._addresses[one] == address)
        if len(self._addresses) > self.bounds.connections:
            _close_first(self._receiving)
        return within

    def receiving(self, connection: "BoundedHttp") -> None:
        """Mark a connection as waiting for a request."""
        self._receiving.pop(connection, None)
        self._receiving[connection] = None

    def received(self, connection: "BoundedHttp") -> None:
        """Mark the request of a connection as complete."""
        self._receiving.pop(connection, None)

    def remove(self, connection: "BoundedHttp") -> None:
        """Remove a connection; it may be called again."""
        self._receiving.pop(connection, None)
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def protocol(self) -> Callable[..., "BoundedHttp"]:
        """Return a factory of protocols for uvicorn's option `http`."""
        return partial(BoundedHttp, connections=self)


def _close_first(connections: "Iterable[BoundedHttp]") -> bool:
    first = next(iter(connections), None)
    if first is None:
        return False
    first.give_up()
    return True


class BoundedHttp(H11Protocol):
    """One connection. uvicorn processes received data in `handle_events`, so deadlines are set there."""

    def __init__(self, *args: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connections = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._awaited: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Register the connection, and start the deadline of its first request."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if not self._connections.admit(self, str(peer[0]) if peer else ""):
            self.app = too_many_connections
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place of the connection."""
        self._connections.remove(self)
        self._clear_deadline()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Process received data, and set the deadline."""
        super().handle_events()
        self._set_deadline()

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid data. uvicorn's own method fails here while an answer is in progress."""
        self._refuse(400, msg)

    def give_up(self) -> None:
        """Stop waiting for a request. A client that has sent nothing of it gets no answer."""
        begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        self._refuse(408 if begun else None, "The request did not arrive in time")

    def _set_deadline(self) -> None:
        """Keep the deadline while the same part of a request is awaited: a client cannot extend it byte by byte."""
        awaited = self.conn.their_state if self.conn.their_state in _RECEIVING else None
        if awaited is self._awaited or self.transport.is_closing():
            return
        self._clear_deadline()
        self._awaited = awaited
        if awaited is None:
            self._connections.received(self)
            return
        bounds = self._connections.bounds
        self._connections.receiving(self)
        self._deadline = self.loop.call_later(bounds.head_s if awaited is h11.IDLE else bounds.body_s, self.give_up)

    def _clear_deadline(self) -> None:
        self._awaited = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int | None, text: str) -> None:
        """Answer, unless an answer has begun, and close."""
        self._connections.remove(self)
        self._clear_deadline()
        if self.transport.is_closing():
            return
        if status is not None and self.conn.our_state in _UNANSWERED:
            body = text.encode() + b"\n"
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
            response = h11.Response(status_code=status, headers=[*headers, ("Connection", "close")])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle:  # None before the first request
            self.cycle.disconnected = True  # otherwise only the loss of the connection sets this
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # the client does not read
        else:
            self.transport.close()
