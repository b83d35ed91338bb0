"""uvicorn's HTTP/1.1 with bounds that it has no options for: deadlines for requests, and places for connections.

A request that is not there in time is answered with 408, or cut off where its answer has begun. No deadline runs once a
request is there: an answer, such as a stream of events, may take as long as it likes.
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
"""The states of a client whose request is not there yet: its head, or its body."""
_UNANSWERED: Final = (h11.IDLE, h11.SEND_RESPONSE)

too_many_connections: Final[ASGIApp] = PlainTextResponse(
    "Too many connections from this address\n", status_code=429, headers={"Connection": "close"}
)


class Connections:
    """The open connections of a server.

    Where there is no place left, the connection that has waited longest for its request gives up its own. So clients
    that only hold connections do not keep others out. A connection whose request is there is never closed for another.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._addresses: dict[BoundedHttp, str] = {}
        self._counts: Counter[str] = Counter()
        self._receiving: dict[BoundedHttp, None] = {}  # the one that has waited longest comes first

    def admit(self, connection: "BoundedHttp", address: str) -> bool:
        """Take in a connection. False if its address has too many, all of them with requests being served."""
        self._addresses[connection] = address
        self._counts[address] += 1
        within = True
        if self._counts[address] > self.bounds.connections_of_one_address:
            within = _close_first(one for one in self._receiving if self._addresses[one] == address)
        if len(self._addresses) > self.bounds.connections:
            _close_first(self._receiving)
        return within

    def receiving(self, connection: "BoundedHttp") -> None:
        """Note that a connection has begun to wait for a request."""
        self._receiving.pop(connection, None)
        self._receiving[connection] = None

    def received(self, connection: "BoundedHttp") -> None:
        """Note that the request is there."""
        self._receiving.pop(connection, None)

    def remove(self, connection: "BoundedHttp") -> None:
        """Forget a connection; it may be called again."""
        self._receiving.pop(connection, None)
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def protocol(self) -> Callable[..., "BoundedHttp"]:
        """What makes the protocol of a connection, for uvicorn's option `http`."""
        return partial(BoundedHttp, connections=self)


def _close_first(connections: "Iterable[BoundedHttp]") -> bool:
    first = next(iter(connections), None)
    if first is None:
        return False
    first.give_up()
    return True


class BoundedHttp(H11Protocol):
    """One connection. `handle_events` is where uvicorn looks at what has arrived, and so where deadlines are set."""

    def __init__(self, *args: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connections = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._awaited: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take in a connection, and begin to wait for the head of its first request."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if not self._connections.admit(self, str(peer[0]) if peer else ""):
            self.app = too_many_connections
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place to another connection."""
        self._connections.remove(self)
        self._clear_deadline()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Look at what has arrived."""
        super().handle_events()
        self._set_deadline()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request. uvicorn itself would fail here while an answer is under way."""
        self._refuse(400, msg)

    def give_up(self) -> None:
        """Wait no longer for a request. A client that has sent nothing of it is not answered."""
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
            self.cycle.disconnected = True  # the application is told when the connection is lost
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # it does not read either
        else:
            self.transport.close()
