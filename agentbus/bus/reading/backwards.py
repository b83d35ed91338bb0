"""Reads a stream from its newest message backwards, without payloads, in windows that grow.

What that costs does not depend on how much the stream holds: a window is found by the server's counts, and read in one
go. For a filter with wildcards of its own, the server looks at every subject of the stream for each consumer.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer, count_after, newest_of
from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects

_QUICK_S: Final = 0.25
"""A window that was read within this time is followed by a larger one, and one that took four times as long by a
smaller one: callers look at the clock between two."""
_GROWTH: Final = 4
_MOST: Final = 2_500
"""How many messages a window is to hold, at most; it has room for four times as many, which are read in about a quarter
of a second, and of which those that are kept are in memory together."""
_MOST_AT_ONCE: Final = 1_000
"""How many messages one request asks for: 46,000 a second with 1,000, 31,000 with 32."""
_FURTHER: Final = 64
"""How much further back to look at once where there are few messages."""


@dataclass(frozen=True, slots=True)
class Window:
    """The messages between two sequences.

    Attributes:
        messages: those that are kept, the newest first; of each subject the last one.
        bottom: every message from this sequence on has been read by now.
        oldest: when the first message of the window was stored; None if it has none.
        later: how many messages there are from `bottom` on, as the server counts them.
        last: whether there are none below `bottom`.
    """

    messages: list[Delivery]
    bottom: int
    oldest: datetime | None
    later: int
    last: bool


async def read_backwards(
    bus: Bus, stream: str, subject: str, *, keep: Callable[[Delivery], bool], count: int, before: int | None = None
) -> AsyncGenerator[Window]:
    """Yield windows of the messages of `subject`, from the newest to the first one.

    A message that is replaced meanwhile by one that is newer than the window is in none.

    Args:
        keep: whether a message is kept; called with each message of a window in the order of the stream.
        count: how many messages the first window is to hold, at least; it has room for a few times as many.
        before: read only messages below this sequence.

    Raises:
        SetupMissingError: the stream does not exist.
        PermissionDeniedError: this user may not read it by this filter.
    """
    reader = _Reader(bus, stream, subject, keep)
    await reader.start(before)
    clock = asyncio.get_running_loop().time
    while not reader.done:
        started = clock()
        window = await reader.read(count)
        took_s = clock() - started
        yield window
        if took_s < _QUICK_S:
            count = min(_MOST, _GROWTH * count)
        elif took_s > _GROWTH * _QUICK_S:
            count = max(1, count // _GROWTH)


class _Reader:
    """Reads one window after the other."""

    def __init__(self, bus: Bus, stream: str, subject: str, keep: Callable[[Delivery], bool]) -> None:
        self._bus = bus
        self._stream = stream
        self._subject = subject
        self._keep = keep
        self._first = 1  # the sequence of the first message, or one below it
        self._top = 1  # messages from here on were read
        self._live = False  # or nothing was read so far, and the newest message may be newer than `_top`
        self._later = 0  # how many messages there were from `_top` on

    @property
    def done(self) -> bool:
        return self._top <= self._first

    async def start(self, before: int | None) -> None:
        """Find the ends of the stream."""
        self._live = before is None
        self._first, newest = await self._ends()
        self._top = newest + 1 if before is None else min(before, newest + 1)
        if before is not None and not self.done:
            self._later = await count_after(self._bus, self._stream, self._subject, self._top - 1)

    async def _ends(self) -> tuple[int, int]:
        """Return the sequences of the first and of the newest message.

        Where this user may not read the state of the stream, the first one is not known.
        """
        if self._stream != subjects.STATE_STREAM or self._bus.reads_ledger_state:
            try:
                state = (await self._bus.stream_info(self._stream)).state
            except PermissionDeniedError:
                self._bus.reads_ledger_state = False
            else:
                return max(1, state.first_seq), state.last_seq
        return 1, await newest_of(self._bus, self._stream, self._subject)

    async def read(self, count: int) -> Window:
        """Read the window that holds the next `count` messages, and some more."""
        async with AsyncExitStack() as stack:
            consumer = await self._open(stack, count)
            bottom = consumer.cursor + 1
            kept: dict[str, Delivery] = {}
            oldest = None
            async with aclosing(consumer.backlog()) as backlog:
                async for message in backlog:
                    if not self._live and message.stream_seq >= self._top:
                        break
                    oldest = oldest or message.stored_at
                    kept.pop(message.subject, None)  # it has changed meanwhile, and now belongs at the end
                    if self._keep(message):
                        kept[message.subject] = message
                    if not self._live and message.stream_seq == self._top - 1:
                        break  # the next one would be asked for with a whole batch
        self._top, self._live = bottom, False
        return Window(list(reversed(kept.values())), bottom, oldest, self._later, self.done)

    async def _open(self, stack: AsyncExitStack, count: int) -> OrderedConsumer:
        """Open a consumer at a sequence that is followed by `count` messages of the window, and not by many more."""
        too_few, window = 0, _GROWTH * count
        while True:
            start = max(self._first - 1, self._top - 1 - window)
            batch = min(_MOST_AT_ONCE, window)
            consumer = OrderedConsumer(
                self._bus, self._stream, self._subject, after=start, headers_only=True, batch=batch
            )
            await stack.enter_async_context(consumer)
            found = consumer.pending - self._later
            if found < count and start >= self._first:
                too_few = window
                # Estimated from the density so far, with a margin; the window at least doubles.
                wider = window * count * 5 // (4 * max(found, 1))
                window = max(2 * window, min(_FURTHER * window, wider))
            elif found > 2 * _GROWTH * count and window > too_few + 1:
                window = max(too_few + 1, too_few + (window - too_few) * count * 5 // (4 * found))
            else:
                self._later = consumer.pending
                return consumer
