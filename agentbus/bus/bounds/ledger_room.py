"""Whether there will be room in the ledger for what becomes of a task: its claim, the renewals of it, its result.

A full ledger refuses what makes an entry longer. Then no task can be claimed or settled, also none that was accepted.
So tasks are refused while there is room for those: up to a mark, and below it as much as they are going to add.

Where each agent has a ledger, that of the agent counts, and the tasks that wait for it.
"""

import asyncio
import math
from typing import Final

from agentbus.bus.bounds.fill import NEARLY_FULL, coming_bytes, remedy
from agentbus.bus.bounds.rooms import Question, Room
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.bus.reading.ledger_parts import part_of
from agentbus.errors import PermissionDeniedError, SetupMissingError, StreamFullError
from agentbus.protocol import subjects

_OF_A_TASK: Final = 2 << 10
"""What a task takes beside its content: its entry while it waits (0.4 KB), its message, and what its result adds."""


def ledger_room(bus: Bus, agent: str, size: int) -> Question:
    """Return the question for the room of one task of this size, for an agent."""
    needed = size + _OF_A_TASK

    async def look() -> Room | StreamFullError:
        part = await part_of(bus, subjects.states(agent))
        apart = part.stream != subjects.STATE_STREAM
        ledger, coming = await asyncio.gather(bus.stream_info(part.stream), _coming(bus, agent if apart else None))
        messages, in_bytes = math.inf, math.inf
        if ledger.max_msgs > 0:
            messages = NEARLY_FULL * ledger.max_msgs - ledger.state.messages
        if ledger.max_bytes > 0:
            in_bytes = NEARLY_FULL * ledger.max_bytes - ledger.state.bytes - coming
        if messages <= 0:
            return _full_of_entries(ledger, agent)
        return Room(messages, in_bytes) if in_bytes >= needed else _full(ledger, coming)

    return Question(f"{subjects.STATE_STREAM} of {agent}", (subjects.STATE_STREAM, agent), needed, look)


async def _coming(bus: Bus, agent: str | None) -> int:
    try:
        wanted = subjects.all_of(agent) if agent is not None else ""
        return coming_bytes(await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=wanted), agent)
    except (PermissionDeniedError, SetupMissingError):
        return 0


def _full(ledger: StreamInfo, coming: int) -> StreamFullError:
    mib = 1 << 20
    return StreamFullError(
        f"the ledger, {ledger.config.get('name')}, holds {ledger.state.bytes / mib:.1f} of "
        f"{ledger.max_bytes / mib:.1f} MiB, and accepted tasks will add {coming / mib:.1f}; from {NEARLY_FULL:.0%} on, "
        f"no task is taken, so that those can be finished. Nothing was queued. An administrator can {remedy(ledger)}"
    )


def _full_of_entries(ledger: StreamInfo, agent: str) -> StreamFullError:
    return StreamFullError(
        f"the ledger of {agent}, {ledger.config.get('name')}, holds {ledger.state.messages} of {ledger.max_msgs} "
        f"entries; from {NEARLY_FULL:.0%} on, no task is taken for it, so that accepted ones can be finished. Nothing "
        f"was queued. An administrator can {remedy(ledger)}"
    )
