"""What has become of tasks: by id, from the ledger, or as an inbox has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from agentbus import subjects
from agentbus.bus import Bus
from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import CorruptEntryError, InvalidIdError, PermissionDeniedError, TaskNotFoundError
from agentbus.ledger import Ledger, Vacant
from agentbus.results import InboxMessage
from agentbus_mcp.views import AgentResult, UnknownTask, of_message, share

INBOX_BATCH: Final = 20
"""How many new messages of an inbox one answer holds; the cursor goes on from there."""
_READS_AT_ONCE: Final = 8
"""An entry of the ledger holds the whole result, so not all are read at the same time."""
_TOGETHER_S: Final = 0.2
"""How long to wait for what arrives together with a message."""


@dataclass(frozen=True, slots=True)
class Found:
    """The tasks of some ids, in their order, and the ids that could not be looked up."""

    known: list[TaskStatus]
    unknown: list[UnknownTask]


async def look_up(coordinator: Coordinator, task_ids: Sequence[str], agent: str | None = None) -> Found:
    """The present state of tasks.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
        BusError: the ledger cannot be read.
    """
    found: dict[str, TaskStatus | UnknownTask] = {}

    async def find(task_id: str) -> None:
        try:
            found[task_id] = await coordinator.task(task_id, agent=agent)
        except (TaskNotFoundError, InvalidIdError, CorruptEntryError) as error:
            found[task_id] = UnknownTask(task_id=task_id, error=str(error))

    async with anyio.create_task_group() as group:
        for task_id in dict.fromkeys(task_ids):
            group.start_soon(find, task_id)
    looked_up = [found[task_id] for task_id in dict.fromkeys(task_ids)]
    known = [task for task in looked_up if isinstance(task, TaskStatus)]
    unknown = [task for task in looked_up if isinstance(task, UnknownTask)]
    if not known:
        raise TaskNotFoundError("; ".join(task.error for task in unknown))
    return Found(known, unknown)


async def newest(coordinator: Coordinator, count: int, agent: str | None) -> tuple[list[InboxMessage], int]:
    """The newest messages of an inbox, oldest first, and the cursor behind them."""
    async with coordinator.inbox(newest=count, agent=agent) as inbox:
        return await inbox.history(), inbox.cursor


async def next_messages(
    coordinator: Coordinator, after: int | None, timeout_s: float
) -> tuple[list[InboxMessage], int]:
    """The next messages of one's own inbox after a cursor, or from now on, and the cursor behind them.

    Waits until there is one or the time is over, over restarts of the bus.
    """
    found: list[InboxMessage] = []
    async with coordinator.inbox(after=after) as inbox:
        patience_s = max(timeout_s, _TOGETHER_S)
        while len(found) < INBOX_BATCH:
            with anyio.move_on_after(patience_s) as wait:
                found.append(await inbox.next())
            if wait.cancelled_caught:
                break
            patience_s = _TOGETHER_S
        return found, inbox.cursor


async def verified(bus: Bus, messages: Sequence[InboxMessage], max_bytes: int) -> list[AgentResult]:
    """Messages of an inbox for a client, each held against the ledger: anybody may write into an inbox."""
    doubts: dict[int, str | None] = {}
    gate = anyio.Semaphore(_READS_AT_ONCE)

    async def check(message: InboxMessage) -> None:
        async with gate:
            doubts[message.seq] = await _doubt(bus, message)

    async with anyio.create_task_group() as group:
        for message in messages:
            group.start_soon(check, message)
    bound = share(max_bytes, len(messages))
    return [of_message(message, bound, doubts[message.seq]) for message in messages]


async def _doubt(bus: Bus, message: InboxMessage) -> str | None:
    """Why the ledger does not confirm a result; None if it does, or does not know the task."""
    result = message.result
    if result is None or not result.agent:
        return None
    try:
        record = await Ledger(bus).read(result.agent, subjects.task_id(result.task_id))
    except InvalidIdError:
        return None
    except (CorruptEntryError, PermissionDeniedError) as error:
        return str(error)
    if isinstance(record, Vacant) or record.entry.result_id == result.id:
        return None
    return f"the ledger has {'another result' if record.entry.terminal else 'no result'} of this task"
