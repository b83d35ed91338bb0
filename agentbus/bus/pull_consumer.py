"""Pulling from a consumer: our own loop over core NATS.

A pull request ends with the connection, without a word from the server. So the loop asks again at once after a
reconnect, and when the server's idle heartbeats stay out. Every status of the server is told apart: nothing there,
shutting down, consumer gone.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.nats_client import Msg
from agentbus.errors import BusUnavailableError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.headers import Headers, is_relayed
from agentbus.protocol.json_codec import encode
from agentbus.protocol.stored_message import StoredMessage

_EXPIRES_S: Final = 30.0
_HEARTBEAT_S: Final = 5.0
_SILENCE_S: Final = 2 * _HEARTBEAT_S + 1
_MISSING_S: Final = 5.0
_MISSING_IN_CLUSTER_S: Final = 15.0
_WAITING: Final = {"expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
_AT_ONCE: Final = {"no_wait": True}
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5


class Delivery:
    """One delivery of one message by a consumer, with the means to settle it.

    Acknowledgements are core messages: they can get lost, and one of a delivery that has expired acts on the delivery
    that another worker has now. A worker that does not hold the lease must not send one.
    """

    def __init__(self, bus: Bus, message: Msg) -> None:
        self._bus = bus
        self._message = message
        tokens = message.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>; newer servers put the
        # domain and the account before the stream and may add a token at the end.
        first = 2 if len(tokens) == 9 else 4
        self.stream = tokens[first]
        self.num_delivered, self.stream_seq, self.consumer_seq, self._nanoseconds, self.num_pending = map(
            int, tokens[first + 2 : first + 7]
        )

    @property
    def stored_at(self) -> datetime:
        """When the message was stored, by the server's clock."""
        return datetime.fromtimestamp(self._nanoseconds / 1e9, UTC)

    @property
    def stored(self) -> StoredMessage:
        """The message as its stream holds it."""
        return StoredMessage(
            self.subject, self.stream_seq, self.stored_at, self.headers, self.data, relayed=is_relayed(self.headers)
        )

    @property
    def subject(self) -> str:
        """The subject that the message was published on."""
        return self._message.subject

    @property
    def data(self) -> bytes:
        """The payload."""
        return self._message.data

    @property
    def headers(self) -> Headers:
        """The headers of the message."""
        return self._message.headers or {}

    async def ack(self) -> None:
        """Done: the message is not delivered again (unless the server forgets). It goes out with what is sent next."""
        await self._bus.publish(self._message.reply, b"+ACK", flush=False)

    async def nak(self, delay_s: float = 0) -> None:
        """Not done: deliver again, after `delay_s` seconds."""
        delay = b" " + encode({"delay": int(delay_s * 1e9)}) if delay_s > 0 else b""
        await self._bus.publish(self._message.reply, b"-NAK" + delay)

    async def term(self, reason: str) -> None:
        """Never deliver again; the reason goes into the server's advisory."""
        await self._bus.publish(self._message.reply, b"+TERM " + " ".join(reason.split()).encode()[:500])

    async def in_progress(self) -> None:
        """Still at it: start the consumer's ack_wait anew."""
        await self._bus.publish(self._message.reply, b"+WPI")


class PullConsumer:
    """Messages of one consumer, for one caller at a time, requested only when the caller waits.

    Args:
        batch: how many messages one request of `next()` asks for. With 1 nothing is delivered ahead of demand, and
            what arrives unasked is handed back to the server at once.
        missing_after_s: how long no server may answer before the consumer counts as missing; unless given, longer in a
            cluster, whose servers may be choosing a leader for it.
    """

    def __init__(
        self, bus: Bus, stream: str, consumer: str, *, batch: int = 1, missing_after_s: float | None = None
    ) -> None:
        self._bus = bus
        self._subject = subjects.pull(stream, consumer)
        self._name = f"the consumer {consumer} of the stream {stream}"
        self._batch = batch
        self._missing_after_s = missing_after_s
        self._inbox = bus.new_inbox()
        self._arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._requests = 0
        self._open = 0  # what the last request may still bring
        self._wanted = 0  # how many the caller waits for
        self._deliverable = 0
        self._handing_back: set[asyncio.Task[None]] = set()
        self._pause_s = _FIRST_PAUSE_S
        self._missing_since: float | None = None

    async def __aenter__(self) -> Self:
        self._unsubscribe = await self._bus.subscribe(f"{self._inbox}.*", self._receive)
        # None stands for "the connection is new": the open request has died with the old one.
        self._forget = self._bus.on_reconnect(lambda: self._arrived.put_nowait(None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()
        await self._unsubscribe()
        while not self._arrived.empty():
            message = self._arrived.get_nowait()
            if message is not None and not _is_status(message):
                self._hand_back(Delivery(self._bus, message))
        if self._handing_back:
            await asyncio.wait(self._handing_back)

    async def next(self) -> Delivery:
        """Wait for the next message, over reconnects and restarts of the server.

        Raises:
            SetupMissingError: the consumer was deleted, or has not been there for `missing_after_s`.
            BusUnavailableError: the connection has ended for good.
        """
        while True:
            if (delivery := await self._answer(self._batch, _WAITING)) is not None:
                return delivery

    async def fetch(self, count: int) -> list[Delivery]:
        """Up to `count` messages, as many as there are now and as far as the server can be asked.

        If it fails, or is cancelled, what has come by then is handed back.

        Raises:
            SetupMissingError, BusUnavailableError: see `next`.
        """
        fetched: list[Delivery] = []
        whole = False
        try:
            while len(fetched) < count and (delivery := await self._answer(count - len(fetched), _AT_ONCE)):
                fetched.append(delivery)
            whole = True
            return fetched
        finally:
            if not whole:
                for delivery in fetched:
                    self._hand_back(delivery)

    async def _answer(self, count: int, how: Mapping[str, int]) -> Delivery | None:
        """What comes next of what was asked for, or else of a new request for so many; None if it is no message."""
        self._wanted = count
        try:
            if self._open == 0 and self._arrived.empty():
                await self._ask(count, how)
            message = await self._first()
            if message is None:
                self._open = 0
            elif _is_status(message):
                await self._on_status(message)
            else:
                self._deliverable -= 1
                self._missing_since = None
                self._pause_s = _FIRST_PAUSE_S
                return Delivery(self._bus, message)
            return None
        finally:
            self._wanted = 0

    async def _ask(self, batch: int, how: Mapping[str, int]) -> None:
        await self._bus.wait_connected()
        self._requests += 1
        body = encode({"batch": batch, **how})
        try:
            await self._bus.publish(self._subject, body, reply=f"{self._inbox}.{self._requests}")
        except BusUnavailableError:
            return  # the connection broke in between: wait_connected tells the next round what became of it
        self._open = batch

    async def _first(self) -> Msg | None:
        """What has arrived first; None if nothing comes of what should, so that it must be asked for again."""
        if not self._arrived.empty():
            return self._arrived.get_nowait()
        try:
            async with asyncio.timeout(_SILENCE_S):
                return await self._arrived.get()
        except TimeoutError:
            return None

    async def _on_status(self, message: Msg) -> None:
        """React to what the server says instead of a message. What concerns an older request is of no interest."""
        if message.subject != f"{self._inbox}.{self._requests}":
            return
        headers = message.headers or {}
        status, text = headers["Status"], headers.get("Description", "").lower()
        if status == "100":
            return
        self._open = 0
        if status == "409" and "consumer deleted" in text:
            raise SetupMissingError(f"{self._name} was deleted")
        if status == "503":
            now = asyncio.get_running_loop().time()
            self._missing_since = self._missing_since or now
            usual_s = _MISSING_IN_CLUSTER_S if self._bus.clustered else _MISSING_S
            if now - self._missing_since > (self._missing_after_s or usual_s):
                self._missing_since = None
                raise SetupMissingError(f"{self._name} does not exist; make it with: agentbus setup --nats-url URL")
        if status in ("503", "409"):
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _receive(self, message: Msg) -> None:
        if _is_status(message):
            self._arrived.put_nowait(message)
            return
        self._open = max(0, self._open - 1)
        if self._deliverable < self._wanted or self._batch > 1:
            self._deliverable += 1
            self._arrived.put_nowait(message)
        else:
            self._hand_back(Delivery(self._bus, message))

    def _hand_back(self, delivery: Delivery) -> None:
        if self._batch == 1:  # what is read without a trace is not acknowledged either
            task = asyncio.create_task(_nak(delivery))
            self._handing_back.add(task)
            task.add_done_callback(self._handing_back.discard)


async def _nak(delivery: Delivery) -> None:
    with suppress(BusUnavailableError):  # the server delivers it again by itself, once its time is over
        await delivery.nak()


def _is_status(message: Msg) -> bool:
    """Whether the server says something in place of a message, which would have a reply subject for its ack."""
    return not message.reply
