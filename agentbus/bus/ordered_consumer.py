"""Reads the messages of one subject filter in the order of the stream, without gaps or repetitions.

An ordered consumer is ephemeral and acknowledges nothing, so reading changes nothing for other readers. After a restart
of the server, a lost connection or a long pause of the reader, a new consumer continues after the last message read.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import ConsumerInfo
from agentbus.bus.pull_consumer import Delivery, PullConsumer
from agentbus.bus.reading.ephemeral_consumers import ALL, Start, count_after, create_ephemeral
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.errors import (
    ApiError,
    BusUnavailableError,
    ConsumerLimitError,
    SetupMissingError,
)

if TYPE_CHECKING:
    from datetime import datetime

_BATCH: Final = 32
_RESUME_TIMEOUT_S: Final = 30.0
"""How long to try to create a new consumer: a restarted server needs seconds to load its streams."""
_RESUME_PAUSE_S: Final = 0.2
_LOST_AFTER_S: Final = 0.5
"""How long no server may answer for the consumer before a new one is created. A new one costs little."""
_SILENCE_S: Final = 2.0
"""How long `backlog` waits for a message before it counts those that are left; the next time, twice as long."""
_LONGEST_SILENCE_S: Final = 16.0
_UNINDEXED: Final = "\x7f"
"""A DEL in its subject keeps a message out of the server's index of subjects (nats-server 2.10 to 2.15): it is stored
and delivered, but not counted, and a read by its subject does not find it."""


class OrderedConsumer:
    """Reads the messages of `subject`, or of several subjects, in `stream`.

    Messages with a DEL in their subjects are left out. Every party with a wildcard in its permissions can publish such
    ones, and the server leaves them out of its counts where the filter has other wildcards than `>`: if each counted as
    one of the backlog, they would hide the newest messages of others.

    For a filter with wildcards, the server looks at every subject of the stream to make a consumer. So where all keys
    of the ledger are meant, the filter that is used is `>`, unless the server refuses it to this user.

    Args:
        subject: one subject, which may hold wildcards, or several that do not overlap. Several need a right to make
            consumers without a filter in the subject of the request.
        after: start after this sequence, at the first message of this time or later, at the next new message (`new`),
            at the newest message (`last`), or with the newest of each subject (`last_per_subject`).
        headers_only: read the messages without their payloads.
        batch: how many messages one request asks for.

    Attributes:
        pending: how many messages there were to read when the consumer was opened; with the filter `>`, those with a
            DEL count.
        cursor: the sequence of the last message read; a later consumer with `after=cursor` continues from there.
        resumed: how often a new consumer had to be created.
        server_time: when the server made the consumer; None from servers before 2.10.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        subject: str | Sequence[str],
        *,
        after: Start,
        headers_only: bool = False,
        batch: int = _BATCH,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._subject = subject
        self._headers_only = headers_only
        self._batch = batch
        self._after: Start = after
        self._consumer: PullConsumer | None = None
        self._read = 0
        self._left = 0  # of the backlog
        self._broken = False  # a delivery was lost, or the consumer is gone
        self._counted = False  # whether the server counts messages with a DEL
        self._counts_right = True  # it subtracts each delivery, also that of a message that it did not count
        self.cursor = 0
        self.pending = 0
        self.resumed = 0
        self.server_time: datetime | None = None

    async def __aenter__(self) -> Self:
        info = await self._start(self._after)
        self.pending, self.server_time = info.num_pending, info.server_time
        self.cursor = self._after if isinstance(self._after, int) else info.delivered_stream_seq
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, error, trace)

    @property
    def _opened(self) -> PullConsumer:
        assert self._consumer is not None, "an ordered consumer is used inside its `async with` block"
        return self._consumer

    async def next(self) -> Delivery:
        """Wait for the next message, without a time-out.

        Raises:
            SetupMissingError: the stream does not exist any more.
            BusUnavailableError: the connection is closed for good.
        """
        while _UNINDEXED in (delivery := await self._next()).subject:
            pass
        return delivery

    async def _next(self) -> Delivery:
        """Wait for the next message, whatever its subject."""
        while True:
            if self._broken:
                await self._resume()
            try:
                delivery = await self._opened.next()
            except SetupMissingError:
                self._broken = True
                continue
            if self._follows(delivery) and self._is_new(delivery):
                return delivery

    async def next_several(self) -> list[Delivery]:
        """Wait for the next message, and return it with those that have arrived behind it, in order.

        Raises:
            SetupMissingError, BusUnavailableError: see `next`.
        """
        found = [await self.next()]
        while (delivery := self._take()) is not None:
            if _UNINDEXED not in delivery.subject:
                found.append(delivery)
        return found

    def _take(self) -> Delivery | None:
        """Return the next message, whatever its subject, if it has arrived; that costs less than to wait for it.

        None also where the consumer has to be made anew: `_next` does.
        """
        if self._broken:
            return None
        try:
            while (delivery := self._opened.take()) is not None:
                if not self._follows(delivery):
                    return None
                if self._is_new(delivery):
                    return delivery
        except SetupMissingError:
            self._broken = True
        return None

    def _follows(self, delivery: Delivery) -> bool:
        """Whether no delivery was lost before this one; without acknowledgements the server does not repeat it."""
        if delivery.consumer_seq != self._read + 1:
            self._broken = True
            return False
        self._read += 1
        return True

    def _is_new(self, delivery: Delivery) -> bool:
        if delivery.stream_seq <= self.cursor:
            return False
        self.cursor = delivery.stream_seq
        self._counts_right &= self._counted or _UNINDEXED not in delivery.subject
        return True

    async def backlog(self) -> AsyncGenerator[Delivery]:
        """Yield the messages that were there when the consumer was opened; `next()` then continues after them."""
        self._left, self.pending = self.pending, 0
        silence_s = _SILENCE_S
        while self._left > 0:
            if (delivery := self._take()) is None and (delivery := await self._next_within(silence_s)) is None:
                silence_s = min(2 * silence_s, _LONGEST_SILENCE_S)  # or the server has much to do, and counting is more
            elif self._counts_off(delivery):
                yield delivery

    async def backlog_in_parts(self) -> AsyncGenerator[list[Delivery]]:
        """Yield the same in lists of what has arrived together, which costs less; `cursor` is behind all of a list."""
        self._left, self.pending = self.pending, 0
        silence_s = _SILENCE_S
        while self._left > 0:
            part: list[Delivery] = []
            while self._left > 0 and (delivery := self._take()) is not None:
                if self._counts_off(delivery):
                    part.append(delivery)
            if part:
                yield part
            elif (delivery := await self._next_within(silence_s)) is None:
                silence_s = min(2 * silence_s, _LONGEST_SILENCE_S)
            elif self._counts_off(delivery):
                yield [delivery]

    async def _next_within(self, silence_s: float) -> Delivery | None:
        """Wait for a message of the backlog; None after a silence, with what is left of the backlog counted anew."""
        try:
            async with asyncio.timeout(silence_s):
                return await self._next()
        except TimeoutError:
            # Some of the counted messages have expired or been replaced meanwhile.
            self._left = await count_after(self._bus, self._stream, self._subject, self.cursor)
            return None

    def _counts_off(self, delivery: Delivery) -> bool:
        """Count a message off the backlog; returns whether it is one of it, and has no DEL."""
        unindexed = _UNINDEXED in delivery.subject
        if self._counts_right:
            self._left = min(self._left - 1, delivery.num_pending)
        elif not unindexed:
            self._left -= 1
        return not unindexed

    async def _start(self, after: Start) -> ConsumerInfo:
        name, info = await create_ephemeral(
            self._bus, self._stream, self._subject, after, headers_only=self._headers_only
        )
        self._counted = info.filter_subject == ALL
        if self._consumer is not None:
            await self._consumer.__aexit__(None, None, None)
        self._consumer = PullConsumer(self._bus, self._stream, name, batch=self._batch, missing_after_s=_LOST_AFTER_S)
        await self._consumer.__aenter__()
        self._read, self._counts_right, self._broken = 0, True, False
        return info

    async def _resume(self) -> None:
        """Continue after the last message with a new consumer; retries while a server is starting."""
        async for attempt in retry_until(deadline_after(_RESUME_TIMEOUT_S), _RESUME_PAUSE_S):
            try:
                await self._bus.wait_connected()
                await self._start(self.cursor)
            except (SetupMissingError, BusUnavailableError, ConsumerLimitError, ApiError):
                if attempt.last:
                    raise
            else:
                self.resumed += 1
                return
