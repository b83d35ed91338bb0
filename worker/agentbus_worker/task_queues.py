"""Takes the next tasks of an agent from its durable consumers: that of `main`'s tasks, and that of all others."""

import asyncio
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery, PullConsumer
from agentbus.errors import BusUnavailableError

_TURNS: Final = 8
"""How many batches one consumer may give while it has more; then the other is asked first. Asking an empty one costs a
round trip, so it is not asked each time."""


class TaskQueues:
    """The consumers from which one worker takes tasks. One caller at a time asks for them.

    A message that arrives when no caller waits for it is returned to the server at once.
    """

    def __init__(self, bus: Bus, stream: str, durable: str) -> None:
        self._bus = bus
        self._stream = stream
        self._consumers = [PullConsumer(bus, stream, durable)]
        self._pending = [0]
        self._first = 0
        self._turns = 0
        self._stack = AsyncExitStack()
        self._added = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        await self._stack.enter_async_context(self._consumers[0])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def add(self, durable: str) -> None:
        """Take tasks from one more consumer, from now on: also for a caller that waits already."""
        consumer = await self._stack.enter_async_context(PullConsumer(self._bus, self._stream, durable))
        self._consumers.append(consumer)
        self._pending.append(0)
        self._added.set()

    @property
    def backlog(self) -> int:
        """How many tasks the server had behind those that were taken last."""
        return sum(self._pending)

    async def next(self) -> Delivery:
        """Wait for the next task, from whichever consumer has one.

        Raises:
            SetupMissingError, BusUnavailableError: see `PullConsumer.next`.
        """
        while True:
            self._added.clear()
            waits = [asyncio.create_task(consumer.next()) for consumer in self._consumers]
            added = asyncio.create_task(self._added.wait())
            cancelled: asyncio.CancelledError | None = None
            try:
                await asyncio.wait([*waits, added], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError as error:
                cancelled = error
            # Not to be cancelled half-way: a task that has arrived would wait for its lease to expire.
            ending = asyncio.create_task(self._ended(waits, added))
            while not ending.done():
                try:
                    await asyncio.wait({ending})
                except asyncio.CancelledError as error:
                    cancelled = error
            if cancelled is not None:
                if ending.exception() is None and (taken := ending.result()) is not None:
                    await _give_back(taken)
                raise cancelled
            if (taken := ending.result()) is not None:
                return taken

    async def fetch(self, count: int) -> list[Delivery]:
        """Return up to `count` tasks that are there now, without waiting for more.

        If this fails or is cancelled, the tasks that have arrived are returned to the server.

        Raises:
            SetupMissingError, BusUnavailableError: see `PullConsumer.next`.
        """
        found: list[Delivery] = []
        whole = False
        try:
            for number in self._in_turn():
                if (missing := count - len(found)) > 0:
                    some = await self._consumers[number].fetch(missing)
                    self._pending[number] = some[-1].num_pending if some else 0
                    found += some
            whole = True
            return found
        finally:
            if not whole:
                for delivery in found:
                    await _give_back(delivery)

    def _in_turn(self) -> list[int]:
        """Return the numbers of the consumers in the order in which they are asked."""
        self._turns += 1
        if self._turns >= _TURNS:
            self._turns, self._first = 0, (self._first + 1) % len(self._consumers)
            return [*range(self._first, len(self._consumers)), *range(self._first)]
        # The one that has more, so that no round trip is lost to an empty one.
        return sorted(range(len(self._consumers)), key=lambda number: -self._pending[number])

    async def _ended(self, waits: list[asyncio.Task[Delivery]], added: asyncio.Task[bool]) -> Delivery | None:
        """End the waits; return the first task that one of them has, and give the other one back."""
        for wait in (*waits, added):
            wait.cancel()
        await asyncio.wait([*waits, added])
        for consumer in self._consumers:
            consumer.give_back()
        taken: Delivery | None = None
        failures: list[BaseException] = []
        for number, wait in enumerate(waits):
            if wait.cancelled():
                continue
            if (error := wait.exception()) is not None:
                failures.append(error)
            elif taken is None:
                taken = wait.result()
                self._pending[number] = taken.num_pending
            else:
                await _give_back(wait.result())
        if failures and taken is None:
            raise failures[0]  # with a task at hand, the next call meets it: one consumer does not hold up the other
        return taken


async def _give_back(delivery: Delivery) -> None:
    with suppress(BusUnavailableError):  # the server delivers it again anyway, after `ack_wait`
        await delivery.nak()
