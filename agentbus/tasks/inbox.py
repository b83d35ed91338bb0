"""A result inbox: publishing a result, reading the newest N, then following new ones. Reading removes nothing."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer, position_before_newest
from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import MessageError, PermissionDeniedError
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.messages import Result, decode_result


async def publish_result(bus: Bus, inbox: str, result: dict[str, Json], *, flush: bool = True) -> None:
    """Publish a committed result to its inbox. Its id is the message id, so repeating this stores it once.

    `flush`: see `Bus.publish`.
    """
    await bus.store(
        subjects.results(inbox),
        encode(result),
        msg_id=str(result["id"]),
        headers=tracing.headers(),
        flush=flush,
    )


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """One message of an inbox, as it is stored.

    Attributes:
        seq: its sequence in the stream; the cursor from which reading can continue.
        stored_at: the server's time.
        data: the stored bytes; any party with the right to publish may have sent them.
        result: the result in `data`; None if it is not valid.
        fault: why `data` is not a valid result.
    """

    seq: int
    stored_at: datetime
    data: bytes
    result: Result | None
    fault: str | None


class Inbox:
    """An open inbox; see `open_inbox`."""

    def __init__(self, consumer: OrderedConsumer, limit: int | None) -> None:
        self._consumer = consumer
        self._limit = limit

    @property
    def cursor(self) -> int:
        """The sequence read last: `open_inbox(after=cursor)` continues from here, after a restart too."""
        return self._consumer.cursor

    async def history(self) -> list[InboxMessage]:
        """Return what the inbox held when it was opened, oldest first: the newest N, or all after the cursor."""
        found: deque[InboxMessage] = deque(maxlen=self._limit)
        async for delivery in self._consumer.backlog():
            found.append(_read(delivery))
        return list(found)

    async def next(self) -> InboxMessage:
        """Wait for the next message after the history; survives restarts of the server.

        Raises:
            BusError: the stream is gone, or the connection has ended for good.
        """
        return _read(await self._consumer.next())


@asynccontextmanager
async def open_inbox(
    bus: Bus,
    agent: str,
    *,
    newest: int | None = None,
    after: int | None = None,
    stream: str = subjects.RESULTS_STREAM,
) -> AsyncGenerator[Inbox]:
    """Open the inbox of `agent` at its newest N messages, or after a cursor, or at its end.

    `history()` then returns what was there, and `next()` what follows, without gap or repetition.

    Raises:
        SetupMissingError: there is no result stream.
        PermissionDeniedError: this user may not read this inbox.
    """
    async with AsyncExitStack() as stack:
        wide, narrow = inbox_filters(agent)
        try:
            consumer = await _open(stack, bus, stream, wide, newest=newest, after=after)
        except PermissionDeniedError:
            consumer = await _open(stack, bus, stream, narrow, newest=newest, after=after)
        yield Inbox(consumer, newest)


def inbox_filters(agent: str) -> tuple[str, str]:
    """The filter of an inbox, and the one that the reader of a bus of the older layout may use instead.

    There, no result has its maker in its subject.
    """
    return subjects.inbox(agent), subjects.results(agent)


async def _open(
    stack: AsyncExitStack, bus: Bus, stream: str, subject: str, *, newest: int | None, after: int | None
) -> OrderedConsumer:
    start = await position_before_newest(bus, stream, subject, newest) if newest else "new"
    consumer = OrderedConsumer(bus, stream, subject, after=start if after is None else after)
    return await stack.enter_async_context(consumer)


def _read(delivery: Delivery) -> InboxMessage:
    result, fault = None, None
    try:
        result = decode_result(delivery.data)
    except MessageError as error:
        fault = str(error)
    return InboxMessage(delivery.stream_seq, delivery.stored_at, delivery.data, result, fault)
