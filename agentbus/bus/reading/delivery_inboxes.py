"""Where the consumers of a connection deliver: the first ones each to a subscription of its own, the others to one.

A server bounds the subscriptions of a connection, and the one too many ends the connection with all that it does. So a
process that reads a thousand things at once must not take one for each of them. A subscription of its own is better
where there is room: when it ends, the server ends the open request of the consumer, and soon the consumer.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from agentbus.bus.jetstream import Bus
from agentbus.bus.nats_client import Msg

OWN: Final = 32
"""How many consumers of a connection have a subscription of their own: a process that follows more is rare, and workers
may have 64 subscriptions."""

Take = Callable[[Msg], None]


@dataclass(frozen=True, slots=True)
class DeliveryInbox:
    """Where one consumer delivers.

    Attributes:
        subject: what the reply subjects of its requests begin with; a number follows.
        shared: whether the subscription outlasts the consumer, so that the server keeps an open request to its end.
        close: ends it. Nothing is taken any more from then on.
    """

    subject: str
    shared: bool
    close: Callable[[], Awaitable[None]]


class _Shared:
    """One subscription of many consumers. A message says in its reply subject whose it is, a status in its subject."""

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox
        self._numbers = itertools.count()
        self._by_number: dict[str, Take] = {}
        self._by_consumer: dict[tuple[str, str], Take] = {}
        self.unsubscribe: Callable[[], Awaitable[None]] | None = None
        self.subscribing = asyncio.Lock()

    def __bool__(self) -> bool:
        return bool(self._by_number)

    def add(self, consumer: tuple[str, str], take: Take) -> str:
        number = str(next(self._numbers))
        self._by_number[number] = self._by_consumer[consumer] = take
        return number

    def remove(self, consumer: tuple[str, str], number: str) -> None:
        del self._by_number[number], self._by_consumer[consumer]

    def take(self, message: Msg) -> None:
        if message.reply:
            tokens = message.reply.split(".")
            first = first_token(tokens)
            take = self._by_consumer.get((tokens[first], tokens[first + 1])) if len(tokens) > first + 1 else None
        else:
            take = self._by_number.get(message.subject.removeprefix(f"{self.inbox}.").partition(".")[0])
        if take is not None:  # else it is for a consumer that is no longer read
            take(message)


@dataclass(slots=True)
class _OfConnection:
    own: int = 0
    shared: _Shared | None = None


_inboxes: WeakKeyDictionary[Bus, _OfConnection] = WeakKeyDictionary()


def first_token(tokens: list[str]) -> int:
    """Return the place of the stream in the tokens of an ack subject.

    $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>; newer servers put the domain
    and the account before the stream and may add a token at the end.
    """
    return 2 if len(tokens) == 9 else 4


async def open_inbox(bus: Bus, consumer: tuple[str, str], take: Take, *, may_share: bool) -> DeliveryInbox:
    """Open one for a consumer, given by its stream and its name, which calls `take` with all that it delivers.

    Args:
        may_share: whether `take` may get more than is asked for: what the server delivers to a request of before.

    Raises:
        BusUnavailableError: the connection is closed for good.
    """
    found = _inboxes.setdefault(bus, _OfConnection())
    if may_share and found.own >= OWN:
        return await _open_shared(bus, found, consumer, take)

    def give_back() -> None:
        found.own -= 1

    subject = bus.new_inbox()
    async with AsyncExitStack() as undo:
        found.own += 1
        undo.callback(give_back)
        undo.push_async_callback(await bus.subscribe(f"{subject}.*", take))
        return DeliveryInbox(subject, shared=False, close=undo.pop_all().aclose)


async def _open_shared(bus: Bus, found: _OfConnection, consumer: tuple[str, str], take: Take) -> DeliveryInbox:
    shared = found.shared = found.shared or _Shared(bus.new_inbox())
    number = shared.add(consumer, take)

    async def close() -> None:
        shared.remove(consumer, number)
        if not shared and found.shared is shared:  # that ends the requests that those before have left open
            found.shared = None
            if shared.unsubscribe is not None:
                await shared.unsubscribe()

    async with AsyncExitStack() as undo:
        undo.push_async_callback(close)
        async with shared.subscribing:
            shared.unsubscribe = shared.unsubscribe or await bus.subscribe(f"{shared.inbox}.*.*", shared.take)
        return DeliveryInbox(f"{shared.inbox}.{number}", shared=True, close=undo.pop_all().aclose)
