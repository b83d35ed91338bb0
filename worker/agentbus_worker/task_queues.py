"""Takes the next tasks of an agent from its durable consumers: that of `main`'s tasks, and that of all others."""

import asyncio
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery, PullConsumer, wait_until
from agentbus.errors import BusUnavailableError, SetupMissingError

_TURNS: Final = 8
"""In one of so many turns, a consumer that had nothing is asked first. That costs a round trip, so not each time."""


class TaskQueues:
    """The consumers from which one worker takes tasks. One caller at a time asks for them.

    A message that arrives when no caller waits for it is returned to the server at once.
    """

    def __init__(self, bus: Bus, stream: str, durable: str) -> None:
        self._bus = bus
        self._stream = stream
        self._arrival = asyncio.Event()
        self._consumers = [PullConsumer(bus, stream, durable, arrival=self._arrival)]
        self._pending = [0]
        self._first = 0
        self._turns = 0
        self._stack = AsyncExitStack()

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
        consumer = PullConsumer(self._bus, self._stream, durable, arrival=self._arrival)
        await self._stack.enter_async_context(consumer)
        self._consumers.append(consumer)
        self._pending.append(0)
        self._arrival.set()

    @property
    def backlog(self) -> int:
        """How many tasks the server had behind those that were taken last."""
        return sum(self._pending)

    async def next(self) -> Delivery:
        """Wait for the next task, from whichever consumer has one.

        Raises:
            SetupMissingError, BusUnavailableError: see `PullConsumer.next`.
        """
        if any(self._pending) and (found := await self.fetch(1)):
            return found[0]
        try:
            while True:
                for consumer in self._consumers:
                    await consumer.ask()
                self._arrival.clear()
                if (taken := self._take()) is not None:
                    return taken
                await wait_until(self._arrival, min(consumer.due for consumer in self._consumers))
        finally:
            for consumer in self._consumers:
                consumer.stop_waiting()

    @property
    def has_second_form(self) -> bool:
        """Whether tasks are taken from the consumer of those whose subject names their publisher."""
        return len(self._consumers) > 1

    async def next_of_second_form(self, until: float) -> Delivery | None:
        """Wait for the next task of the second form, until a time of the loop; None if there is none by then.

        Raises:
            SetupMissingError, BusUnavailableError: see `PullConsumer.next`.
        """
        consumer = self._consumers[-1]
        try:
            while asyncio.get_running_loop().time() < until:
                await consumer.ask()
                self._arrival.clear()
                if (taken := consumer.take()) is not None:
                    return taken
                await wait_until(self._arrival, min(consumer.due, until))
            return None
        finally:
            consumer.stop_waiting()

    def _take(self) -> Delivery | None:
        """Take the task of the first consumer that has one: one that is missing does not hold up the other."""
        missing: SetupMissingError | None = None
        for number, consumer in enumerate(self._consumers):
            try:
                if (taken := consumer.take()) is not None:
                    self._pending[number] = taken.num_pending
                    return taken
            except SetupMissingError as error:
                missing = error
        if missing is not None:
            raise missing
        return None

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
        """Return the numbers of the consumers in the order in which they are asked.

        Those that had more come first, by turns, so that no round trip is lost to an empty one; sometimes the others.
        """
        count = len(self._consumers)
        self._first = (self._first + 1) % count
        self._turns = (self._turns + 1) % _TURNS
        by_turns = [*range(self._first, count), *range(self._first)]
        return sorted(by_turns, key=lambda number: (self._pending[number] > 0) == (self._turns == 0))


async def _give_back(delivery: Delivery) -> None:
    with suppress(BusUnavailableError):  # the server delivers it again anyway, after `ack_wait`
        await delivery.nak()
