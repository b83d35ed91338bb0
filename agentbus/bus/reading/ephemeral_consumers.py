"""Creates the ephemeral consumers that reading needs, and counts with them: a new one says how much it has to deliver.

They acknowledge nothing, and the server removes them soon after their last use.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from agentbus.bus.connection import REQUEST_TIMEOUT_S
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import ConsumerInfo
from agentbus.bus.retry_until import deadline_after, left_until, retry_until
from agentbus.errors import BusUnavailableError, ConsumerLimitError, PermissionDeniedError
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import Json
from agentbus.protocol.parties.ledger_streams import is_whole

_INACTIVE_S: Final = 2
"""How long the server keeps a consumer without pull requests. A reader that pauses for longer creates a new one."""
_ANSWER_S: Final = 2.0
"""How long a cluster may take to create a consumer; after that, another one may be placed on another server."""
_PLACING_S: Final = 15.0
"""How long to repeat that: longer than an election (4 to 8 s)."""
_ROOM_S: Final = 8.0
"""How long to wait for room among the consumers of a stream: unused ones go after 2 s, those of earlier callers too."""
_FIRST_ROOM_PAUSE_S: Final = 0.1
_LONGEST_ROOM_PAUSE_S: Final = 1.0
ALL: Final = ">"
"""The filter of a reader that means every message of a stream."""

Start: TypeAlias = int | datetime | Literal["new", "last", "last_per_subject"]


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
    _, info = await create_ephemeral(bus, stream, subject, "last", headers_only=True)
    return info.delivered_stream_seq + 1 if info.num_pending else 0


async def count_after(bus: Bus, stream: str, subject: str | Sequence[str], after: int) -> int:
    """Count the messages of a subject, or of several, that a stream holds after a sequence."""
    _, info = await create_ephemeral(bus, stream, subject, after, headers_only=True)
    return info.num_pending


async def count_from(bus: Bus, stream: str, subject: str, time: datetime) -> tuple[int, int]:
    """Find the first message of a subject that was stored at a time or later: its sequence, and how many there are.

    The sequence may be below that of the message, but not below that of any older one.
    """
    _, info = await create_ephemeral(bus, stream, subject, time, headers_only=True)
    return info.delivered_stream_seq + 1, info.num_pending


async def create_ephemeral(
    bus: Bus, stream: str, subject: str | Sequence[str], after: Start, *, headers_only: bool
) -> tuple[str, ConsumerInfo]:
    """Create an ephemeral consumer, by the widest filter where all of the ledger is meant and may be read."""
    if isinstance(subject, str) and bus.reads_whole_ledger and is_whole(stream, subject):
        try:
            return await _create_by(bus, stream, ALL, after, headers_only=headers_only)
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
