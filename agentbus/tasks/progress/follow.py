"""Yields what the runs of a task tell, from the oldest that is kept on, over restarts of the server and takeovers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ephemeral_consumers import Start
from agentbus.errors import ApiError, BusError, BusUnavailableError, PermissionDeniedError, SetupMissingError
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import ProgressMessage, RunEvent, read_progress
from agentbus.protocol.subjects import TaskKey

_PAUSE_S: Final = 0.5
_LAST_S: Final = 0.5
"""How long to wait for what a run told at its end, once its task is settled: it is sent before, and not waited for."""
_MOST_RUNS: Final = 256
_AWAY_S: Final = 1.5
"""How long a stream may not answer before a reader in a cluster is told that it is away: servers answer within
milliseconds, and of what has one replica no other one is elected."""
_AWAY: Final = "what runs of the agent {agent} tell cannot be read now: the one server that keeps it is away"


@dataclass
class _Told:
    """What was told of each run so far, so that nothing is yielded twice and what is missing is said."""

    next_of_run: dict[str, int] = field(default_factory=dict[str, int])
    bytes_of_run: dict[str, int] = field(default_factory=dict[str, int])

    def take(self, message: ProgressMessage) -> list[RunEvent]:
        """Return the events of a message that are new, behind one that says what is missing before them."""
        expected = self.next_of_run.get(message.run, 0)
        if message.before < expected:
            return []  # a copy
        missing = message.before - expected + message.left_out
        bytes_missing = max(0, message.bytes_left_out - self.bytes_of_run.get(message.run, 0))
        if len(self.next_of_run) >= _MOST_RUNS and message.run not in self.next_of_run:
            self.next_of_run.clear()
            self.bytes_of_run.clear()
        self.next_of_run[message.run] = message.before + len(message.events) + message.left_out
        self.bytes_of_run[message.run] = message.bytes_left_out
        dropped = [_dropped(message, missing, bytes_missing)] if missing or bytes_missing else []
        return [*dropped, *message.events]


def _dropped(message: ProgressMessage, events: int, count: int) -> RunEvent:
    parts = [f"{events:,} events" if events else "", f"{count:,} bytes of output" if count else ""]
    text = (
        f"{' and '.join(part for part in parts if part)} not shown here: they were too many, or are not kept any more"
    )
    return RunEvent("dropped", message.elapsed_s, text, at=message.at, attempt=message.attempt)


async def kept_events(bus: Bus, key: TaskKey) -> AsyncGenerator[RunEvent]:
    """Yield what is kept of the runs of a task, the oldest first, and end.

    Raises:
        SetupMissingError: the bus keeps nothing of what the runs of this agent do; the message says what to do.
        PermissionDeniedError: this user may not read it.
        BusUnavailableError: the bus did not answer; or, in a cluster, the server that keeps it is away.
    """
    told = _Told()
    async with _Opening(bus, key, 0) as opening:
        if await opening.is_away():
            raise BusUnavailableError(f"{_AWAY.format(agent=key.agent)}; try again when it is back")
        consumer = await opening.consumer()
        assert consumer is not None, "nothing else was waited for"
        async with aclosing(consumer.backlog()) as backlog:
            async for delivery in backlog:
                for event in _events(told, delivery):
                    yield event


async def follow_events(bus: Bus, key: TaskKey, settled: "asyncio.Future[Any]") -> AsyncGenerator[RunEvent]:
    """Yield the same and then what comes, until `settled` is done and nothing more is there.

    A lost connection or a restarted server does not end it. Where, in a cluster, the server that keeps it is away, an
    event of the kind `dropped` says so.

    Raises:
        SetupMissingError, PermissionDeniedError: as `kept_events`, at the beginning.
    """
    told, since = _Told(), None
    first, said_away = True, False
    while True:
        try:
            async with _Opening(bus, key, 0 if since is None else since) as opening:
                if await opening.is_away() and not said_away:
                    said_away = True
                    text = f"{_AWAY.format(agent=key.agent)}; it goes on by itself when that is back"
                    yield RunEvent("dropped", text=text)
                if (consumer := await opening.consumer(settled)) is None:
                    return
                first = said_away = False
                while (delivery := await _next_or_settled(consumer, settled)) is not None:
                    since = delivery.stored_at
                    for event in _events(told, delivery):
                        yield event
                return
        except PermissionDeniedError:
            raise
        except (SetupMissingError, BusUnavailableError, ApiError) as error:
            if settled.done() or _ends(error, bus, first=first):
                raise
        await asyncio.wait({settled}, timeout=_PAUSE_S)
        await bus.wait_connected()


def _ends(error: BusError, bus: Bus, *, first: bool) -> bool:
    """Return whether no further attempt can do better; what is missing at first has not been made."""
    return bus.closed or (first and isinstance(error, SetupMissingError))


async def _next_or_settled(consumer: OrderedConsumer, settled: "asyncio.Future[Any]") -> Delivery | None:
    """Return the next message; None once the task is settled and no message comes any more."""
    coming = asyncio.ensure_future(consumer.next())
    try:
        await asyncio.wait({coming, settled}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            await asyncio.wait({coming}, timeout=_LAST_S)
        return coming.result() if coming.done() else None
    finally:
        coming.cancel()


def _events(told: _Told, delivery: Delivery) -> list[RunEvent]:
    message = read_progress(delivery.stored)
    return told.take(message) if message is not None else []


class _Opening:
    """Opens a consumer of what the runs of a task tell, and closes it at the end of the block."""

    def __init__(self, bus: Bus, key: TaskKey, after: Start) -> None:
        self._bus = bus
        self._consumer = OrderedConsumer(bus, names.stream(key.agent), names.of_task(key), after=after)

    async def __aenter__(self) -> Self:
        self._opened = asyncio.ensure_future(self._consumer.__aenter__())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.cancel()
        await asyncio.wait({self._opened})
        if not self._opened.cancelled() and self._opened.exception() is None:
            await self._consumer.__aexit__(kind, error, trace)

    async def is_away(self) -> bool:
        """Whether a cluster that is there does not answer for the stream; that is known after a moment."""
        await asyncio.wait({self._opened}, timeout=_AWAY_S)
        return not self._opened.done() and self._bus.connected and self._bus.clustered

    async def consumer(self, settled: "asyncio.Future[Any] | None" = None) -> OrderedConsumer | None:
        """Return the consumer once it is open; None if `settled` is done and it is not.

        Raises:
            SetupMissingError, PermissionDeniedError, BusUnavailableError, ApiError: it cannot be opened.
        """
        await asyncio.wait({self._opened, *([settled] if settled else [])}, return_when=asyncio.FIRST_COMPLETED)
        return self._opened.result() if self._opened.done() else None
