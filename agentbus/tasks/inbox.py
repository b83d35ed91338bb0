"""A result inbox: publishing a result, reading the newest N, then following new ones. Reading removes nothing."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ephemeral_consumers import position_before_newest
from agentbus.errors import MessageError, PermissionDeniedError
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.messages import Result, decode_result
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import COORDINATOR


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
        sent_by: the party that sent it, as the subject says where the bus attests it; None elsewhere.
    """

    seq: int
    stored_at: datetime
    data: bytes
    result: Result | None
    fault: str | None
    sent_by: str | None = None

    @property
    def forgery(self) -> str | None:
        """Why this cannot be the result that it says it is; None if nothing speaks against it.

        The result of a task comes from its agent, or from a coordinator if no worker can settle the task any more.
        """
        result = self.result
        if result is None or self.sent_by in (None, COORDINATOR, result.agent, result.key and result.key.owner):
            return None
        return f"sent by {self.sent_by}, which is not the agent {result.agent or 'of the task'}"


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
    return read_inbox_message(delivery.stored)


def read_inbox_message(stored: StoredMessage) -> InboxMessage:
    """Read a message of an inbox as its stream holds it."""
    result, fault = None, None
    try:
        result = decode_result(stored.data)
    except MessageError as error:
        fault = str(error)
    _, sent_by = subjects.agent_and_party(stored.subject, "results") or ("", None)
    return InboxMessage(stored.seq, stored.time, stored.data, result, fault, sent_by)
