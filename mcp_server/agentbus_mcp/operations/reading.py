"""What has become of tasks: by id, from the ledger, or as an inbox has it."""

import codecs
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import anyio

from agentbus.bus.jetstream import Bus
from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import (
    BusUnavailableError,
    CorruptEntryError,
    FileMissingError,
    InvalidIdError,
    PermissionDeniedError,
    TaskNotFoundError,
)
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.tasks.inbox import InboxMessage
from agentbus.tasks.ledger import Ledger
from agentbus_mcp.errors import ArgumentError
from agentbus_mcp.replies.models import AgentResult, UnknownTask
from agentbus_mcp.replies.sanitize import visible
from agentbus_mcp.replies.views import Draft, Excerpt, draft_of_message, draft_of_status, share

INBOX_BATCH: Final = 20
"""How many new messages of an inbox one answer holds; the cursor goes on from there."""
_READS_AT_ONCE: Final = 8
"""An entry of the ledger holds the whole result, so not all are read at the same time."""
_TOGETHER_S: Final = 0.2
"""How long to wait for what arrives together with a message."""
_CONTINUATION: Final = bytes(range(0x80, 0xC0))
_CHECK_S: Final = 3.0
_LAG_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Found:
    """The tasks of some ids, in their order, and the ids that could not be looked up."""

    known: list[TaskStatus]
    unknown: list[UnknownTask]


async def look_up(
    coordinator: Coordinator,
    task_ids: Sequence[str],
    agent: str | Mapping[str, str] | None = None,
    *,
    timeout_s: float = 0,
) -> Found:
    """The present state of tasks, of one agent, or each of the agent that it is mapped to, or of whichever has it.

    A connection that breaks meanwhile gets `timeout_s` to come back.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
        BusError: the ledger cannot be read.
    """
    found: dict[str, TaskStatus | UnknownTask] = {}
    deadline = anyio.current_time() + timeout_s

    async def find(task_id: str) -> None:
        whose = agent.get(task_id) if isinstance(agent, Mapping) else agent
        try:
            found[task_id] = await _patiently(coordinator, task_id, whose, deadline)
        except (TaskNotFoundError, InvalidIdError, CorruptEntryError) as error:
            found[task_id] = UnknownTask(task_id=visible(task_id), error=visible(str(error)))

    async with anyio.create_task_group() as group:
        for task_id in dict.fromkeys(task_ids):
            group.start_soon(find, task_id)
    looked_up = [found[task_id] for task_id in dict.fromkeys(task_ids)]
    known = [task for task in looked_up if isinstance(task, TaskStatus)]
    unknown = [task for task in looked_up if isinstance(task, UnknownTask)]
    if not known:
        raise TaskNotFoundError("; ".join(task.error for task in unknown))
    return Found(known, unknown)


async def _patiently(coordinator: Coordinator, task_id: str, agent: str | None, deadline: float) -> TaskStatus:
    while True:
        try:
            return await coordinator.task(task_id, agent=agent)
        except BusUnavailableError:
            if anyio.current_time() >= deadline:
                raise
        with anyio.move_on_after(deadline - anyio.current_time()):
            await coordinator.bus.wait_connected()


async def part(coordinator: Coordinator, status: TaskStatus, offset: int, max_bytes: int) -> Excerpt:
    """A part of the output of a settled task, from its result or, in bounded memory, from where the whole is kept.

    It begins at `offset`, or at the next character, and has `max_bytes` or more, as far as there are.

    Raises:
        ArgumentError: the output ends before `offset`.
        BusError: the whole cannot be read.
    """
    at_hand = draft_of_status(status).output
    data = at_hand.text.encode()
    if offset > max(at_hand.size, len(data)):
        raise ArgumentError(f"offset: {offset} is beyond the end; this output has {at_hand.size} bytes")
    if at_hand.readable > len(data) and offset + max_bytes > len(data):
        try:
            return await _from_file(coordinator, status, offset, max_bytes, at_hand.size)
        except (PermissionDeniedError, FileMissingError):
            if offset >= len(data):
                raise
            at_hand = replace(at_hand, readable=len(data))
    return _excerpt(data[offset:], offset, at_hand)


async def _from_file(coordinator: Coordinator, status: TaskStatus, offset: int, max_bytes: int, size: int) -> Excerpt:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    data, position = b"", 0
    async with aclosing(coordinator.output(status.task_id, agent=status.agent)) as pieces:
        async for piece in pieces:
            text = decoder.decode(piece).encode()
            data += text[max(0, offset - position) :]
            position += len(text)
            if len(data) > max_bytes:
                size = max(size, position)
                break
        else:
            rest = decoder.decode(b"", final=True).encode()
            data += rest[max(0, offset - position) :]
            size = position + len(rest)
    return _excerpt(data, offset, Excerpt("", size, readable=size))


def _excerpt(data: bytes, offset: int, whole: Excerpt) -> Excerpt:
    """The characters in `data`, which may begin and end in the middle of one."""
    characters = data.lstrip(_CONTINUATION) if offset else data
    begin = offset + len(data) - len(characters)
    return replace(whole, text=characters.decode(errors="ignore"), offset=begin)


async def newest(coordinator: Coordinator, count: int, agent: str | None) -> tuple[list[InboxMessage], int]:
    """The newest messages of an inbox, oldest first, and the cursor behind them."""
    async with coordinator.inbox(newest=count, agent=agent) as inbox:
        return await inbox.history(), inbox.cursor


async def next_messages(
    coordinator: Coordinator, after: int | None, timeout_s: float, agent: str | None = None
) -> tuple[list[InboxMessage], int]:
    """The next messages of an inbox, one's own by default, after a cursor, or from now on, and the cursor behind them.

    Waits until there is one or the time is over, over restarts of the bus.

    Raises:
        ArgumentError: the cursor lies beyond the end of the stream: it is none of this bus.
    """
    if after is not None:
        await _check_cursor(coordinator.bus, after)
    found: list[InboxMessage] = []
    async with coordinator.inbox(after=after, agent=agent) as inbox:
        timeout_s = max(timeout_s, _TOGETHER_S)
        while len(found) < INBOX_BATCH:
            with anyio.move_on_after(timeout_s) as wait:
                found.append(await inbox.next())
            if wait.cancelled_caught:
                break
            timeout_s = _TOGETHER_S
        return found, inbox.cursor


async def _check_cursor(bus: Bus, cursor: int) -> None:
    """Whoever waited behind a cursor of another bus would miss every message up to it."""
    try:
        last = int((await bus.api(f"STREAM.INFO.{subjects.RESULTS_STREAM}"))["state"]["last_seq"])
    except PermissionDeniedError:
        return
    if cursor > last:
        raise ArgumentError(
            f"cursor: {cursor} is beyond the end of the inbox ({last}): it is of another bus, or the streams were made "
            "anew. Leave it out, and read what is there with get_results"
        )


async def drafts(bus: Bus, messages: Sequence[InboxMessage]) -> list[Draft]:
    """Messages of an inbox for a client, each held against the ledger: anybody may write into an inbox."""
    checked: dict[int, Draft] = {}
    gate = anyio.Semaphore(_READS_AT_ONCE)

    async def check(message: InboxMessage) -> None:
        async with gate:
            checked[message.seq] = draft_of_message(message, "the bus went away before the ledger could be asked")
            with anyio.move_on_after(_CHECK_S):
                checked[message.seq] = await _checked(bus, message)

    async with anyio.create_task_group() as group:
        for message in messages:
            group.start_soon(check, message)
    return [checked[message.seq] for message in messages]


async def verified(bus: Bus, messages: Sequence[InboxMessage], max_bytes: int) -> list[AgentResult]:
    """The same in full detail, with at most `max_bytes` of each output."""
    bound = share(max_bytes, len(messages))
    return [draft.cut(bound) for draft in await drafts(bus, messages)]


async def _checked(bus: Bus, message: InboxMessage) -> Draft:
    """A message with why the ledger does not confirm it, if it does not; it may not know the task at all."""
    result = message.result
    if result is None or not result.agent or not subjects.is_task_id(result.task_id):
        return draft_of_message(message, by_id=False)
    try:
        record = await Ledger(bus).read(result.agent, result.task_id)
    except (CorruptEntryError, PermissionDeniedError, BusUnavailableError) as error:
        return draft_of_message(message, visible(str(error)))
    deadline = anyio.current_time() + bus.lag_s
    while not (isinstance(record, Record) and record.entry.terminal) and anyio.current_time() < deadline:
        # It was committed before it was published, but not every replica of the ledger may know.
        await anyio.sleep(_LAG_PAUSE_S)
        record = await Ledger(bus).read(result.agent, result.task_id)
    if isinstance(record, NoEntry):
        return draft_of_message(message, by_id=False)
    if record.entry.result_id == result.id:
        return draft_of_message(message)
    has = "another result" if record.entry.terminal else "no result"
    return draft_of_message(message, f"the ledger has {has} of this task")
