"""Whether there will be room in the ledger for what becomes of a task: its claim, the renewals of it, its result.

A full ledger refuses what makes an entry longer. Then no task can be claimed or settled, also none that was accepted.
So tasks are refused while there is room for those: up to a mark, and below it as much as they are going to add.
"""

import asyncio
from typing import Final

from agentbus.bus.bounds.fill import NEARLY_FULL, coming_bytes, remedy
from agentbus.bus.bounds.rooms import Question, Room
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.errors import PermissionDeniedError, SetupMissingError, StreamFullError
from agentbus.protocol import subjects

_OF_A_TASK: Final = 2 << 10
"""What a task takes beside its content: its entry while it waits (0.4 KB), its message, and what its result adds."""


def ledger_room(bus: Bus, size: int) -> Question:
    """Return the question for the room of one task of this size."""
    needed = size + _OF_A_TASK

    async def look() -> Room | StreamFullError:
        ledger, coming = await asyncio.gather(bus.stream_info(subjects.STATE_STREAM), _coming(bus))
        if ledger.max_bytes <= 0:
            return Room()
        left = NEARLY_FULL * ledger.max_bytes - ledger.state.bytes - coming
        return Room(bytes=left) if left >= needed else _full(ledger, coming)

    return Question(subjects.STATE_STREAM, (subjects.STATE_STREAM,), needed, look)


async def _coming(bus: Bus) -> int:
    try:
        return coming_bytes(await bus.stream_info(subjects.TASKS_STREAM))
    except (PermissionDeniedError, SetupMissingError):
        return 0


def _full(ledger: StreamInfo, coming: int) -> StreamFullError:
    mib = 1 << 20
    return StreamFullError(
        f"the ledger, {subjects.STATE_STREAM}, holds {ledger.state.bytes / mib:.1f} of {ledger.max_bytes / mib:.1f} "
        f"MiB, and accepted tasks will add {coming / mib:.1f}; from {NEARLY_FULL:.0%} on, no task is taken, so that "
        f"those can be finished. Nothing was queued. An administrator can {remedy(ledger)}"
    )
