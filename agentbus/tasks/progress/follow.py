"""Yields what the runs of a task tell, from the oldest that is kept on, over restarts of the server and takeovers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer, Start
from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import ApiError, BusUnavailableError, PermissionDeniedError, SetupMissingError
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import ProgressMessage, RunEvent, read_progress
from agentbus.protocol.subjects import TaskKey

_PAUSE_S: Final = 0.5
_LAST_S: Final = 0.5
"""How long to wait for what a run told at its end, once its task is settled: it is sent before, and not waited for."""
_MOST_RUNS: Final = 256


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
    """
    told = _Told()
    async with _opened(bus, key, 0) as consumer, aclosing(consumer.backlog()) as backlog:
        async for delivery in backlog:
            for event in _events(told, delivery):
                yield event


async def follow_events(bus: Bus, key: TaskKey, settled: "asyncio.Future[Any]") -> AsyncGenerator[RunEvent]:
    """Yield the same and then what comes, until `settled` is done and nothing more is there.

    A lost connection or a restarted server does not end it.

    Raises:
        SetupMissingError, PermissionDeniedError: as `kept_events`, at the beginning.
    """
    told, since = _Told(), None
    first = True
    while True:
        try:
            async with _opened(bus, key, 0 if since is None else since) as consumer:
                first = False
                while (delivery := await _next_or_settled(consumer, settled)) is not None:
                    since = delivery.stored_at
                    for event in _events(told, delivery):
                        yield event
                return
        except PermissionDeniedError:
            raise
        except (SetupMissingError, BusUnavailableError, ApiError) as error:
            if bus.closed or (first and isinstance(error, SetupMissingError)) or settled.done():
                raise
        await asyncio.wait({settled}, timeout=_PAUSE_S)
        await bus.wait_connected()


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


def _opened(bus: Bus, key: TaskKey, after: int | datetime) -> OrderedConsumer:
    start: Start = after
    return OrderedConsumer(bus, names.stream(key.agent), names.of_task(key), after=start)
