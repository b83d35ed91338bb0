"""Pulls messages from a consumer, over core NATS.

A pull request ends with its connection, and the server does not report that. So a new request follows at once after a
reconnect, and when the server's idle heartbeats stop. The statuses of the server are handled separately: no messages,
shutting down, consumer deleted.
"""

import asyncio
import math
import re
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.nats_client import Msg
from agentbus.bus.reading.delivery_inboxes import DeliveryInbox, first_token, open_inbox
from agentbus.errors import BusUnavailableError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.headers import Headers, is_relayed
from agentbus.protocol.json_codec import encode
from agentbus.protocol.stored_message import StoredMessage

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EXPIRES_S: Final = 30.0
_HEARTBEAT_S: Final = 5.0
_LATE_S: Final = _HEARTBEAT_S + 2  # a heartbeat is late then, and the line may be dead
_SILENCE_S: Final = 2 * _HEARTBEAT_S + 1  # how long to wait for a heartbeat: two may get lost
_MISSING_S: Final = 5.0
_MISSING_IN_CLUSTER_S: Final = 15.0
_WAIT: Final = {"expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
_SHARED_EXPIRES_S: Final = 12.0  # over two heartbeats, as the server wants it
"""How long the server may keep the request of a consumer that is gone, and with it the consumer: see `open_inbox`."""
_WAIT_SHARED: Final = {**_WAIT, "expires": int(_SHARED_EXPIRES_S * 1e9)}
_NO_WAIT: Final = {"no_wait": True}
_ACK_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+")
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5


class Delivery:
    """One delivery of a message by a consumer, with the methods that acknowledge it.

    Acknowledgements are core messages and can get lost. After `ack_wait`, an acknowledgement acts on the delivery that
    another worker has now. So a worker that does not hold the lease must not send one.

    Attributes:
        subject: the subject that the message was published on.
        data: the payload.
    """

    __slots__ = (
        *("_bus", "_message", "_nanoseconds", "consumer_seq", "data"),
        *("num_delivered", "num_pending", "stream", "stream_seq", "subject"),
    )

    def __init__(self, bus: Bus, message: Msg) -> None:
        self._bus = bus
        self._message = message
        self.subject, self.data = message.subject, message.data
        tokens = message.reply.split(".")
        first = first_token(tokens)
        self.stream = tokens[first]
        self.num_delivered, self.stream_seq, self.consumer_seq, self._nanoseconds, self.num_pending = map(
            int, tokens[first + 2 : first + 7]
        )

    @property
    def reply(self) -> str:
        """The subject for acknowledgements: with it, another process of this user can return the message."""
        return self._message.reply

    @property
    def stored_at_us(self) -> int:
        """The same as `stored_at`, in microseconds since the epoch."""
        return self._nanoseconds // 1_000

    @property
    def stored_at(self) -> datetime:
        """The time at which the server stored the message, by its clock; cut to microseconds, as in other answers."""
        return _EPOCH + timedelta(microseconds=self._nanoseconds // 1_000)

    @property
    def stored(self) -> StoredMessage:
        """The message as its stream holds it."""
        return StoredMessage(
            self.subject, self.stream_seq, self.stored_at, self.headers, self.data, relayed=is_relayed(self.headers)
        )

    @property
    def headers(self) -> Headers:
        """The headers of the message."""
        return self._message.headers or {}

    @property
    def header_bytes(self) -> int:
        """The size of the headers as they were sent."""
        return self._message.header_bytes

    async def ack(self) -> None:
        """Report the message as done. The acknowledgement goes out with the next message that is sent.

        The server may lose it, and deliver the message again.
        """
        await self._bus.publish(self._message.reply, b"+ACK", flush=False)

    async def nak(self, delay_s: float = 0) -> None:
        """Have the message delivered again, after `delay_s` seconds."""
        delay = b" " + encode({"delay": int(delay_s * 1e9)}) if delay_s > 0 else b""
        await self._bus.publish(self._message.reply, b"-NAK" + delay)

    async def term(self, reason: str) -> None:
        """Have the message never delivered again; `reason` goes into the server's advisory."""
        await self._bus.publish(self._message.reply, b"+TERM " + " ".join(reason.split()).encode()[:500])

    async def in_progress(self) -> None:
        """Restart the consumer's `ack_wait` for this delivery."""
        await self._bus.publish(self._message.reply, b"+WPI")


def consumer_of(reply: str) -> tuple[str, str] | None:
    """Return the stream and the consumer that an ack subject belongs to; None if it is no ack subject."""
    tokens = reply.split(".")
    first = first_token(tokens)
    numbers = tokens[first + 2 : first + 7]
    if tokens[:2] != ["$JS", "ACK"] or len(numbers) < 5 or not all(map(_ACK_TOKEN.fullmatch, tokens[2:])):
        return None
    return (tokens[first], tokens[first + 1]) if all(map(str.isdecimal, numbers)) else None


async def return_to_server(bus: Bus, reply: str) -> None:
    """Have the message of a delivery delivered again that a process which has ended had got under this ack subject.

    It is lost if the connection breaks. If the message has been delivered again by then, it is so once more.

    Raises:
        BusUnavailableError: there is no connection.
    """
    await bus.publish(reply, b"-NAK")


class PullConsumer:
    """Pulls the messages of one consumer, for one caller at a time, only while the caller waits.

    What arrives without a reply subject is a status of the server: messages have one for their acknowledgement.

    Args:
        batch: how many messages one request of `next` asks for. With 1, nothing is delivered ahead of demand, and a
            message that no caller waits for is returned to the server (nak) at once.
        missing_after_s: how long no server may answer before the consumer counts as missing. The default is longer in
            a cluster, whose servers may be electing a leader for it.
        arrival: set whenever something arrives; several consumers may share one, and one caller waits for all of them.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        *,
        batch: int = 1,
        missing_after_s: float | None = None,
        arrival: asyncio.Event | None = None,
    ) -> None:
        self._bus = bus = bus.of_stream(stream)
        self._subject = subjects.pull(stream, consumer)
        self._name = f"the consumer {consumer} of the stream {stream}"
        self._batch = batch
        self._missing_after_s = missing_after_s
        self._inbox: DeliveryInbox | None = None
        self._of = (stream, consumer)
        self._arrived: deque[Msg] = deque()
        self._arrival = arrival or asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._requests = 0
        self._open = 0  # how many messages the last request may still deliver
        self._heard_at = -math.inf  # when the server was last heard, or asked
        self._line_checked = False  # since then
        self._ask_at = -math.inf  # when to ask again after a refusal
        self._wanted = 0  # how many messages the caller waits for
        self._deliverable = 0  # how many have arrived for it
        self._naks: set[asyncio.Task[None]] = set()
        self._pause_s = _FIRST_PAUSE_S
        self._missing_since: float | None = None

    async def __aenter__(self) -> Self:
        self._inbox = await open_inbox(self._bus, self._of, self._receive, may_share=self._batch > 1)
        self._unregister = self._bus.on_reconnect(self._forget_request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unregister()
        await self._opened.close()
        self.stop_waiting()
        if self._naks:
            await asyncio.wait(self._naks)

    @property
    def _opened(self) -> DeliveryInbox:
        assert self._inbox is not None, "a consumer is read inside its `async with` block"
        return self._inbox

    async def next(self) -> Delivery:
        """Wait for the next message, over reconnects and restarts of the server.

        Raises:
            SetupMissingError: the consumer was deleted, or was missing for `missing_after_s`.
            BusUnavailableError: the connection is closed for good.
        """
        try:
            while True:
                await self.ask()
                self._arrival.clear()
                if (delivery := self.take()) is not None:
                    return delivery
                await wait_until(self._arrival, self.due)
        finally:
            self.stop_waiting()

    async def fetch(self, count: int) -> list[Delivery]:
        """Return up to `count` messages that are there now, without waiting for more.

        If this fails or is cancelled, the messages that have arrived are returned to the server (nak).

        Raises:
            SetupMissingError, BusUnavailableError: see `next`.
        """
        fetched: list[Delivery] = []
        whole = asked = False
        try:
            while len(fetched) < count:
                self._arrival.clear()
                if (delivery := self.take()) is not None:
                    fetched.append(delivery)
                elif not self._is_open():
                    if asked:
                        break
                    asked = True
                    await asyncio.sleep(max(0.0, self._ask_at - self._clock()))
                    self._wanted = count - len(fetched)
                    await self._request(self._wanted, _NO_WAIT)
                elif asked:
                    await wait_until(self._arrival, self.due)
                else:  # the server would have answered the request that `next` has left open
                    await asyncio.sleep(0)
                    break
            whole = True
            return fetched
        finally:
            if not whole:
                for delivery in fetched:
                    self._nak_soon(delivery)
            self.stop_waiting()

    # -- the parts of `next`, for a caller that waits for several consumers ------------------------------------------

    async def ask(self) -> None:
        """Ask the server for the next messages, unless a request is open."""
        self._wanted = self._batch
        if not self._is_open() and not self._arrived and self._clock() >= self._ask_at:
            await self._request(self._batch, _WAIT_SHARED if self._opened.shared else _WAIT)

    def take(self) -> Delivery | None:
        """Take the oldest message that has arrived; None if there is none.

        Raises:
            SetupMissingError: see `next`.
        """
        arrived = self._arrived
        while arrived:
            message = arrived.popleft()
            if not message.reply:
                self._on_status(message)
                continue
            self._deliverable -= 1
            self._missing_since = None
            self._pause_s = _FIRST_PAUSE_S
            return Delivery(self._bus, message)
        return None

    @property
    def due(self) -> float:
        """The time of the loop at which to ask again if nothing has arrived."""
        silence_s = _SILENCE_S if self._line_checked else _LATE_S
        return self._heard_at + silence_s if self._open > 0 else self._ask_at

    def stop_waiting(self) -> None:
        """Return to the server (nak) what has arrived and was not taken, and whatever arrives from now on."""
        self._wanted = 0
        if self._batch > 1 or not self._arrived:
            return  # an ordered consumer acknowledges nothing: its next call takes what has arrived
        self._deliverable = 0
        arrived, self._arrived = self._arrived, deque[Msg]()
        for message in arrived:
            if message.reply:
                self._nak_soon(Delivery(self._bus, message))
            else:
                self._arrived.append(message)

    def _is_open(self) -> bool:
        """Whether the server has a request of this consumer; after a silence it counts as lost."""
        silent_s = self._clock() - self._heard_at
        if self._open > 0 and silent_s >= _LATE_S and not self._line_checked:
            self._line_checked = True
            self._bus.check_line()
        if silent_s >= _SILENCE_S:
            self._open = 0
        return self._open > 0

    # -- requests ----------------------------------------------------------------------------------------------------

    async def _request(self, batch: int, options: Mapping[str, int]) -> None:
        await self._bus.wait_connected()
        self._requests += 1
        body = encode({"batch": batch, **options})
        try:
            await self._bus.publish(self._subject, body, reply=f"{self._opened.subject}.{self._requests}")
        except BusUnavailableError:
            return  # the connection broke meanwhile: the next round waits for the next one, or fails
        self._open = batch
        self._heard_now()

    def _forget_request(self) -> None:
        """Ask anew over a new connection: the open request has ended with the old one."""
        self._open, self._ask_at = 0, -math.inf
        self._arrival.set()

    def _on_status(self, message: Msg) -> None:
        """Handle a status of the server. Ignores those for older requests."""
        if message.subject != f"{self._opened.subject}.{self._requests}":
            return
        headers = message.headers or {}
        status, text = headers["Status"], headers.get("Description", "").lower()
        if status == "100":
            return
        self._open = 0
        if status == "409" and "consumer deleted" in text:
            raise SetupMissingError(f"{self._name} was deleted")
        now = self._clock()
        if status == "503":
            self._missing_since = self._missing_since or now
            usual_s = _MISSING_IN_CLUSTER_S if self._bus.clustered else _MISSING_S
            if now - self._missing_since > (self._missing_after_s or usual_s):
                self._missing_since = None
                raise SetupMissingError(
                    f"{self._name} does not exist; make it with: agentbus setup, as the administrator"
                )
        if status in ("503", "409"):
            self._ask_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _heard_now(self) -> None:
        self._heard_at = self._clock()
        self._line_checked = False

    def _receive(self, message: Msg) -> None:
        self._heard_now()
        if not message.reply:
            self._arrived.append(message)
        else:
            if self._open:
                self._open -= 1
            if self._deliverable >= self._wanted and self._batch == 1:
                self._nak_soon(Delivery(self._bus, message))
                return
            self._deliverable += 1
            self._arrived.append(message)
        self._arrival.set()

    def _nak_soon(self, delivery: Delivery) -> None:
        if self._batch == 1:
            task = asyncio.create_task(_nak(delivery))
            self._naks.add(task)
            task.add_done_callback(self._naks.discard)


async def wait_until(event: asyncio.Event, due: float) -> None:
    """Wait for an event, or until a time of the loop, at which it is set; then other tasks have run at least once."""
    timer = asyncio.get_running_loop().call_at(due, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


async def _nak(delivery: Delivery) -> None:
    with suppress(BusUnavailableError):  # the server delivers it again anyway, after `ack_wait`
        await delivery.nak()
