"""Finds the message of an unsettled task in the queue: its ledger entry does not hold the content.

The messages of a queue lie in the order of their times. So a search by halves comes near the one that was stored when
the entry was made, in some twenty small requests, however long the queue is.
"""

from datetime import datetime, timedelta
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError, MessageError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.messages import Task, decode_task
from agentbus.tasks.status import TaskStatus

_NEAR: Final = 40
"""How many messages are looked at where it should be."""
_CLOCKS: Final = timedelta(seconds=30)
"""How far the clocks of publishers and the server may be apart; a message beyond that is not found."""


async def queued_task(bus: Bus, status: TaskStatus) -> Task | None:
    """Return the task as it was published; None if the queue does not hold it, or this user may not read it."""
    entry = status.record.entry
    if status.settled or not bus.reads_queue or entry.created_at is None:
        return None
    try:
        created = datetime.fromisoformat(entry.created_at)
        return await _found(bus, status, created - _CLOCKS) or await _found(bus, status, created)
    except ValueError:
        return None
    except PermissionDeniedError:
        bus.reads_queue = False
        return None
    except (BusError, TypeError):
        return None


async def _found(bus: Bus, status: TaskStatus, since: datetime) -> Task | None:
    stream = (await bus.stream_info(subjects.TASKS_STREAM)).state
    wanted = subjects.all_of(status.agent)
    low, high = stream.first_seq, stream.last_seq + 1
    while low < high:
        middle = (low + high) // 2
        message = await bus.next_at_the_leader(subjects.TASKS_STREAM, wanted, middle)
        if message is None or message.time >= since:
            high = middle
        else:
            low = message.seq + 1
    for _ in range(_NEAR):
        message = await bus.next_at_the_leader(subjects.TASKS_STREAM, wanted, low)
        if message is None:
            return None
        low = message.seq + 1
        try:
            task = decode_task(message.data)
        except MessageError:
            continue
        if task.id == status.task_id and task.digest() == status.record.entry.digest:
            return task
    return None
