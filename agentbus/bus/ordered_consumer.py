"""Reads the messages of one subject filter in the order of the stream, without gaps or repetitions.

An ordered consumer is ephemeral and acknowledges nothing, so reading changes nothing for other readers. After a restart
of the server, a lost connection or a long pause of the reader, a new consumer continues after the last message read.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from agentbus.bus.connection import REQUEST_TIMEOUT_S
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import ConsumerInfo
from agentbus.bus.pull_consumer import Delivery, PullConsumer
from agentbus.bus.retry_until import deadline_after, left_until, retry_until
from agentbus.errors import (
    ApiError,
    BusUnavailableError,
    ConsumerLimitError,
    PermissionDeniedError,
    SetupMissingError,
)
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import Json
from agentbus.protocol.parties.ledger_streams import is_whole

_INACTIVE_S: Final = 2
"""How long the server keeps a consumer without pull requests. A reader that pauses for longer creates a new one."""
_BATCH: Final = 32
_RESUME_TIMEOUT_S: Final = 30.0
"""How long to try to create a new consumer: a restarted server needs seconds to load its streams."""
_RESUME_PAUSE_S: Final = 0.2
_LOST_AFTER_S: Final = 0.5
"""How long no server may answer for the consumer before a new one is created. A new one costs little."""
_SILENCE_S: Final = 2.0
"""How long `backlog` waits for a message before it counts those that are left; the next time, twice as long."""
_LONGEST_SILENCE_S: Final = 16.0
_ANSWER_S: Final = 2.0
"""How long a cluster may take to create a consumer; after that, another one may be placed on another server."""
_PLACING_S: Final = 15.0
"""How long to repeat that: longer than an election (4 to 8 s)."""
_ROOM_S: Final = 8.0
"""How long to wait for room among the consumers of a stream: unused ones go after 2 s, those of earlier callers too."""
_FIRST_ROOM_PAUSE_S: Final = 0.1
_LONGEST_ROOM_PAUSE_S: Final = 1.0
_ALL: Final = ">"
_UNINDEXED: Final = "\x7f"
"""A DEL in its subject keeps a message out of the server's index of subjects (nats-server 2.10 to 2.15): it is stored
and delivered, but not counted, and a read by its subject does not find it."""

Start: TypeAlias = int | datetime | Literal["new", "last", "last_per_subject"]


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
        left, self.pending = self.pending, 0
        silence_s = _SILENCE_S
        while left > 0:
            try:
                if (delivery := self._take()) is None:
                    async with asyncio.timeout(silence_s):
                        delivery = await self._next()
            except TimeoutError:
                # Some of the counted messages have expired or been replaced meanwhile.
                left = await count_after(self._bus, self._stream, self._subject, self.cursor)
                silence_s = min(2 * silence_s, _LONGEST_SILENCE_S)  # or the server has much to do, and counting is more
                continue
            unindexed = _UNINDEXED in delivery.subject
            if self._counts_right:
                left = min(left - 1, delivery.num_pending)
            elif not unindexed:
                left -= 1
            if not unindexed:
                yield delivery

    async def _start(self, after: Start) -> ConsumerInfo:
        name, info = await _create(self._bus, self._stream, self._subject, after, headers_only=self._headers_only)
        self._counted = info.filter_subject == _ALL
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


async def position_before_newest(bus: Bus, stream: str, subject: str, count: int, *, before: int | None = None) -> int:
    """Find a sequence that is followed by the newest `count` messages of `subject` and few more; 0 if there are fewer.

    No message is read: the server counts the messages after a sequence in one request. A window before the newest
    message is widened until it holds `count`, and narrowed again while it holds over twice as many.

    Args:
        before: count only messages below this sequence.
    """
    newest = await newest_of(bus, stream, subject) if before is None else before - 1
    later = 0 if before is None else await count_after(bus, stream, subject, newest)
    too_few, window = 0, count
    while newest > 0:
        start = max(0, newest - window)
        found = await count_after(bus, stream, subject, start) - later
        if found < count and start > 0:
            too_few = window
            # Estimated from the density so far, with a margin; the window at least doubles.
            window = max(2 * window, min(64 * window, window * count * 5 // (4 * max(found, 1))))
        elif found > 2 * count and window > too_few + 1:
            window = max(too_few + 1, too_few + (window - too_few) * count * 5 // (4 * found))
        else:
            return start
    return 0


async def newest_of(bus: Bus, stream: str, subject: str) -> int:
    """Read the sequence of the newest message of `subject`; 0 if there is none.

    The message is not read, and so not waited for if it expires meanwhile: a new consumer stands right before it.
    """
    _, info = await _create(bus, stream, subject, "last", headers_only=True)
    return info.delivered_stream_seq + 1 if info.num_pending else 0


async def count_after(bus: Bus, stream: str, subject: str | Sequence[str], after: int) -> int:
    """Count the messages of a subject, or of several, that a stream holds after a sequence."""
    _, info = await _create(bus, stream, subject, after, headers_only=True)
    return info.num_pending


async def count_from(bus: Bus, stream: str, subject: str, time: datetime) -> tuple[int, int]:
    """Find the first message of a subject that was stored at a time or later: its sequence, and how many there are.

    The sequence may be below that of the message, but not below that of any older one.
    """
    _, info = await _create(bus, stream, subject, time, headers_only=True)
    return info.delivered_stream_seq + 1, info.num_pending


async def _create(
    bus: Bus, stream: str, subject: str | Sequence[str], after: Start, *, headers_only: bool
) -> tuple[str, ConsumerInfo]:
    """Create an ephemeral consumer, by the widest filter where all of the ledger is meant and may be read."""
    if isinstance(subject, str) and bus.reads_whole_ledger and is_whole(stream, subject):
        try:
            return await _create_by(bus, stream, _ALL, after, headers_only=headers_only)
        except PermissionDeniedError:
            bus.reads_whole_ledger = False  # a bus of an older layout
    return await _create_by(bus, stream, subject, after, headers_only=headers_only)


async def _create_by(
    bus: Bus, stream: str, subject: str | Sequence[str], after: Start, *, headers_only: bool
) -> tuple[str, ConsumerInfo]:
    """Create one by its filters; the server removes it when pull requests stop."""
    several = not isinstance(subject, str)
    config: dict[str, Json] = {
        "filter_subjects" if several else "filter_subject": list[Json](subject) if several else subject,
        "ack_policy": "none",
        "inactive_threshold": _INACTIVE_S * 1_000_000_000,
        "mem_storage": True,
        "num_replicas": 1,
        "headers_only": headers_only,
        **_start_at(after),
    }
    async for attempt in retry_until(deadline_after(_PLACING_S), pause_s=0):
        name = f"feed-{random_token()}"
        try:
            return name, await _when_there_is_room(bus, stream, name, config)
        except BusUnavailableError:
            # The cluster may have placed it on a server that is down; the next one may be placed on another.
            if not bus.clustered or not bus.connected or attempt.last:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _when_there_is_room(bus: Bus, stream: str, name: str, config: dict[str, Json]) -> ConsumerInfo:
    """Create a consumer; while its stream has as many as it may, wait for those to go that are not used any more."""
    pause_s = _FIRST_ROOM_PAUSE_S
    deadline = deadline_after(_ROOM_S)
    while True:
        try:
            return await bus.create_consumer(
                stream, name, config, timeout_s=_ANSWER_S if bus.clustered else REQUEST_TIMEOUT_S
            )
        except ConsumerLimitError:
            if left_until(deadline) <= 0:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_ROOM_PAUSE_S)


def _start_at(after: Start) -> dict[str, Json]:
    match after:
        case int():
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        case datetime():
            return {"deliver_policy": "by_start_time", "opt_start_time": after.astimezone(UTC).isoformat()}
        case _:
            return {"deliver_policy": after}
