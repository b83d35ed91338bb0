"""Reads one stream from its newest message backwards, without payloads, window by window.

What that costs does not depend on how much the stream holds: a window is found by the server's counts, and read in one
go. For a filter with wildcards of its own, the server looks at every subject of the stream for each consumer.
"""

import math
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ephemeral_consumers import count_after, count_from, newest_of
from agentbus.bus.reading.newest import Whole
from agentbus.errors import PermissionDeniedError
from agentbus.protocol.parties.ledger_streams import is_ledger

GROWTH: Final = 4
"""How many times as many messages as it is to hold a window has room for."""
_MOST_AT_ONCE: Final = 1_000
"""How many messages one request asks for: 46,000 a second with 1,000, 31,000 with 32."""
_FURTHER: Final = 64
"""How much further back to look at once where there are few messages."""

Read: TypeAlias = Delivery | Whole
"""A message that was read: by a consumer, without its payload, or in a request of its own."""
Keep: TypeAlias = Callable[[Read], bool]
"""Whether a message is kept; called with each message of a window in the order of the stream."""


@dataclass(frozen=True, slots=True)
class Window:
    """The messages between two sequences.

    Attributes:
        messages: those that are kept, the newest first; of each subject the last one.
        bottom: every message from this sequence on has been read by now.
        oldest: when the first message of the window was stored; None if it has none.
        read: how many messages were read, also those that are not kept.
        last: whether there are none below `bottom`.
    """

    messages: list[Read]
    bottom: int
    oldest: datetime | None
    read: int
    last: bool


class BackwardsReader:
    """Reads one window after the other: first that of the newest messages.

    A message that is replaced meanwhile by one that is newer than the window is in none.
    """

    def __init__(self, bus: Bus, stream: str, subject: str, keep: Keep) -> None:
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
        """Whether every message was read."""
        return self._top <= self._first

    @property
    def later(self) -> int:
        """How many messages there are from the oldest one on that was read."""
        return self._later

    async def start(
        self, before: int | datetime | None, ends: tuple[int, int] | None = None, *, later: int | None = None
    ) -> None:
        """Find the ends of the stream.

        Args:
            before: read only messages below this sequence, or those that were stored before this time.
            ends: the sequences of the first and of the newest message, if they are known.
            later: how many messages there are from `before` on, if that is known.

        Raises:
            SetupMissingError: the stream does not exist.
            PermissionDeniedError: this user may not read it by this filter.
        """
        self._live = before is None
        self._first, newest = ends or await self._ends()
        if before is None or later == 0:
            self._top = newest + 1
        elif isinstance(before, int):
            self._top, self._later = min(before, newest + 1), later or 0
            if not self.done and later is None:
                self._later = await count_after(self._bus, self._stream, self._subject, self._top - 1)
        else:
            first_later, self._later = await count_from(self._bus, self._stream, self._subject, before)
            self._top = min(first_later, newest + 1)

    async def _ends(self) -> tuple[int, int]:
        """Return the sequences of the first and of the newest message.

        Where this user may not read the state of the stream, the first one is not known.
        """
        if not is_ledger(self._stream) or self._bus.reads_ledger_state:
            try:
                state = (await self._bus.stream_info(self._stream)).state
            except PermissionDeniedError:
                self._bus.reads_ledger_state = False
            else:
                return max(1, state.first_seq), state.last_seq
        return 1, await newest_of(self._bus, self._stream, self._subject)

    async def read(self, count: int) -> Window:
        """Read the window that holds the next `count` messages, at least, and has room for a few times as many."""
        async with AsyncExitStack() as stack:
            consumer = await self._open(stack, count)
            bottom = consumer.cursor + 1
            kept: dict[str, Read] = {}
            oldest, read, end = None, 0, math.inf if self._live else self._top
            async with aclosing(consumer.backlog_in_parts()) as backlog:
                async for part in backlog:
                    for message in part:
                        if message.stream_seq >= end:
                            break
                        oldest, read = oldest or message.stored_at, read + 1
                        kept.pop(message.subject, None)  # it has changed meanwhile, and now belongs at the end
                        if self._keep(message):
                            kept[message.subject] = message
                    if part[-1].stream_seq >= end - 1:
                        break  # the next one would be asked for with a whole batch
        self._top, self._live = bottom, False
        return Window(list(reversed(kept.values())), bottom, oldest, read, self.done)

    async def _open(self, stack: AsyncExitStack, count: int) -> OrderedConsumer:
        """Open a consumer at a sequence that is followed by `count` messages of the window, and not by many more."""
        too_few, window = 0, GROWTH * count
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
            elif found > 2 * GROWTH * count and window > too_few + 1:
                window = max(too_few + 1, too_few + (window - too_few) * count * 5 // (4 * found))
            else:
                self._later = consumer.pending
                return consumer
