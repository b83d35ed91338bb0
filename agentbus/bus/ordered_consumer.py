"""Reads the messages of one subject filter in a stream's order, without gap or repetition.

Reading leaves no trace: an ordered consumer is ephemeral and acknowledges nothing. When it is lost - a restart of the
server, a broken connection, a long pause of the reader - a new one goes on behind the last message that was read.
"""

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from agentbus.bus.connection import REQUEST_TIMEOUT_S
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import ConsumerInfo
from agentbus.bus.pull_consumer import Delivery, PullConsumer
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.errors import ApiError, BusUnavailableError, SetupMissingError
from agentbus.protocol.ids import random_token

_INACTIVE_S: Final = 2
"""How long the server keeps a consumer without pull requests; a reader that pauses for longer makes a new one."""
_BATCH: Final = 32
_RESUME_TIMEOUT_S: Final = 30.0
_RESUME_PAUSE_S: Final = 0.2
_LOST_AFTER_S: Final = 0.5
_SILENCE_S: Final = 2.0
_ANSWER_S: Final = 2.0
_PLACING_S: Final = 15.0


Start: TypeAlias = int | Literal["new", "last"]


class OrderedConsumer:
    """Messages of `subject` in `stream`.

    Those after the sequence `after`, or those from now on (`new`), or the newest one and what follows it (`last`).
    `pending` is how many messages were there when it was opened, `cursor` the sequence of the last one read:
    a later consumer with `after=cursor` goes on from there.
    """

    def __init__(self, bus: Bus, stream: str, subject: str, *, after: Start, headers_only: bool = False) -> None:
        self._bus = bus
        self._stream = stream
        self._subject = subject
        self._headers_only = headers_only
        self._after: Start = after
        self._puller: PullConsumer | None = None
        self._read = 0
        self.cursor = 0
        self.pending = 0
        self.resumed = 0

    async def __aenter__(self) -> Self:
        info = await self._start(self._after)
        self.pending = info.num_pending
        self.cursor = self._after if isinstance(self._after, int) else info.delivered_stream_seq
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, error, trace)

    @property
    def _opened(self) -> PullConsumer:
        assert self._puller is not None, "an ordered consumer is used inside its `async with` block"
        return self._puller

    async def next(self) -> Delivery:
        """The next message, whenever it comes.

        Raises:
            SetupMissingError: the stream is gone.
            BusUnavailableError: the connection has ended for good.
        """
        while True:
            try:
                delivery = await self._opened.next()
            except SetupMissingError:
                await self._resume()
                continue
            if delivery.consumer_seq != self._read + 1:
                await self._resume()  # a message was lost on the way: nothing is acknowledged here
                continue
            self._read += 1
            if delivery.stream_seq > self.cursor:
                self.cursor = delivery.stream_seq
                return delivery

    async def backlog(self) -> AsyncGenerator[Delivery]:
        """What was there when it was opened, and end there; `next()` goes on behind it."""
        left, self.pending = self.pending, 0
        while left > 0:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    delivery = await self.next()
            except TimeoutError:
                # Some of what was counted has expired or been replaced meanwhile.
                left = await count_after(self._bus, self._stream, self._subject, self.cursor)
                continue
            left = min(left - 1, delivery.num_pending)
            yield delivery

    async def _start(self, after: Start) -> ConsumerInfo:
        name, info = await _create(self._bus, self._stream, self._subject, after, headers_only=self._headers_only)
        if self._puller is not None:
            await self._puller.__aexit__(None, None, None)
        self._puller = PullConsumer(self._bus, self._stream, name, batch=_BATCH, missing_after_s=_LOST_AFTER_S)
        await self._puller.__aenter__()
        self._read = 0
        return info

    async def _resume(self) -> None:
        """Go on behind the last message with a new consumer; a server that is starting gets time to get ready."""
        async for attempt in retry_until(deadline_after(_RESUME_TIMEOUT_S), _RESUME_PAUSE_S):
            try:
                await self._bus.wait_connected()
                await self._start(self.cursor)
            except (SetupMissingError, BusUnavailableError, ApiError):
                if attempt.last:
                    raise
            else:
                self.resumed += 1
                return


async def position_before_newest(bus: Bus, stream: str, subject: str, count: int, *, before: int | None = None) -> int:
    """A sequence after which the newest `count` messages of `subject` lie, and not many more; 0 if there are fewer.

    Nothing is scanned: the server counts what lies behind a sequence in one request, and a window before the newest
    message is widened, and narrowed again if it holds over twice as many, until it fits.

    Args:
        before: count only messages below this sequence.
    """
    newest = await _newest(bus, stream, subject) if before is None else before - 1
    later = 0 if before is None else await count_after(bus, stream, subject, newest)
    too_few, window = 0, count
    while newest > 0:
        start = max(0, newest - window)
        found = await count_after(bus, stream, subject, start) - later
        if found < count and start > 0:
            too_few = window
            # By the density seen so far, with a margin; found is at least 1, and the window at least doubles.
            window = max(2 * window, min(64 * window, window * count * 5 // (4 * max(found, 1))))
        elif found > 2 * count and window > too_few + 1:
            window = max(too_few + 1, too_few + (window - too_few) * count * 5 // (4 * found))
        else:
            return start
    return 0


async def _newest(bus: Bus, stream: str, subject: str) -> int:
    """The sequence of the newest message of `subject`; 0 if there is none."""
    async with OrderedConsumer(bus, stream, subject, after="last", headers_only=True) as feed:
        return (await feed.next()).stream_seq if feed.pending else 0


async def count_after(bus: Bus, stream: str, subject: str, after: int) -> int:
    """How many messages of `subject` a stream holds after a sequence."""
    _, info = await _create(bus, stream, subject, after, headers_only=True)
    return info.num_pending


async def _create(bus: Bus, stream: str, subject: str, after: Start, *, headers_only: bool) -> tuple[str, ConsumerInfo]:
    """Make an ephemeral consumer; the server removes it when pull requests stop."""
    start = (
        {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        if isinstance(after, int)
        else {"deliver_policy": after}
    )
    config = {
        "filter_subject": subject,
        "ack_policy": "none",
        "inactive_threshold": _INACTIVE_S * 1_000_000_000,
        "mem_storage": True,
        "num_replicas": 1,
        "headers_only": headers_only,
        **start,
    }
    async for attempt in retry_until(deadline_after(_PLACING_S), pause_s=0):
        name = f"feed-{random_token()}"
        try:
            return name, await bus.create_consumer(
                stream, name, config, timeout_s=_ANSWER_S if bus.clustered else REQUEST_TIMEOUT_S
            )
        except BusUnavailableError:
            # The cluster may have given it to a server that is down; another one may go elsewhere.
            if not bus.clustered or not bus.connected or attempt.last:
                raise
    raise AssertionError("the last attempt returns or raises")
