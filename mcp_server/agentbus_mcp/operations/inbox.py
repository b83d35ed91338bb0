"""Reads inboxes, and checks each message against the ledger: every party may publish into an inbox."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import anyio

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import concurrently
from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import ArgumentError, BusUnavailableError, CorruptEntryError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import NoEntry
from agentbus.protocol.subjects import COORDINATOR
from agentbus.tasks.inbox import InboxMessage
from agentbus.tasks.ledger import Ledger
from agentbus_mcp.operations.output import OutputPart, beginnings, is_unsure
from agentbus_mcp.operations.waits import Waits
from agentbus_mcp.sanitize import visible

INBOX_BATCH: Final = 20
"""How many new messages of an inbox one answer holds; the cursor continues from there."""
_READS_AT_ONCE: Final = 8
"""A ledger entry holds the whole result, so only a few are read at the same time."""
_BATCH_S: Final = 0.2
"""How long to wait for messages that arrive together with the first."""
_CHECK_S: Final = 3.0
"""How long one message may take to check; after that it counts as unverified."""


@dataclass(frozen=True, slots=True)
class CheckedMessage:
    """A message of an inbox.

    Attributes:
        reader: the coordinator that reads it.
        unverified: why the ledger does not confirm the message; None if it does, or does not know the task.
        in_ledger: whether the ledger has it under its task id, so that its output can be read on there.
        status: the task, where the ledger confirms the message and its output is one to be read from the file.
        output: what was read of it.
    """

    message: InboxMessage
    unverified: str | None = None
    in_ledger: bool = True
    reader: str = COORDINATOR
    status: TaskStatus | None = None
    output: OutputPart | None = None


@dataclass(frozen=True, slots=True)
class InboxPage:
    """Messages of an inbox, oldest first, and the cursor after them."""

    messages: list[CheckedMessage]
    cursor: int


async def newest_messages(coordinator: Coordinator, count: int, agent: str | None = None) -> InboxPage:
    """Read the newest messages of an inbox, by default the coordinator's own."""
    async with coordinator.inbox(newest=count, agent=agent) as inbox:
        messages, cursor = await inbox.history(), inbox.cursor
    return InboxPage(await check_messages(coordinator, messages), cursor)


async def next_messages(
    coordinator: Coordinator,
    after: int | None,
    timeout_s: float,
    agent: str | None = None,
    *,
    waits: Waits | None = None,
) -> InboxPage:
    """Read the next messages of an inbox, after a cursor or from now on.

    Waits until there is one or the time is over, across restarts of the bus; `waits` may end it early.

    Raises:
        ArgumentError: the cursor lies beyond the end of the stream: it is of another bus.
    """
    if after is not None:
        await _check_cursor(coordinator.bus, after)
    found: list[InboxMessage] = []
    waits = waits or Waits()
    async with coordinator.inbox(after=after, agent=agent) as inbox:
        timeout_s = max(timeout_s, _BATCH_S)
        while len(found) < INBOX_BATCH:
            with waits.at_most(timeout_s) as wait:
                found.append(await inbox.next())
            if wait.cancelled_caught:
                break
            timeout_s = _BATCH_S
        cursor = inbox.cursor
    return InboxPage(await check_messages(coordinator, found), cursor)


async def check_messages(coordinator: Coordinator, messages: Sequence[InboxMessage]) -> list[CheckedMessage]:
    """Check messages against the ledger; one that cannot be checked in time is unverified."""

    async def check(message: InboxMessage) -> CheckedMessage:
        checked = CheckedMessage(message, "the bus went away before the ledger could be asked")
        with anyio.move_on_after(_CHECK_S):
            checked = await _check(coordinator, message)
        return replace(checked, reader=coordinator.agent)

    found = await concurrently(messages, check, at_once=_READS_AT_ONCE)
    outputs = await beginnings(coordinator, [checked.status for checked in found if checked.status])
    return [
        replace(checked, output=outputs.get(checked.status.record.key)) if checked.status else checked
        for checked in found
    ]


async def _check(coordinator: Coordinator, message: InboxMessage) -> CheckedMessage:
    result = message.result
    key = result.key if result is not None else None
    if result is None or key is None:
        return CheckedMessage(message, in_ledger=False)
    if message.forgery is not None:
        return CheckedMessage(message, visible(message.forgery), in_ledger=False)
    try:
        # It was committed before its result was published.
        record = await Ledger(coordinator.bus).read_known(key, lambda one: one.entry.terminal)
    except (CorruptEntryError, PermissionDeniedError, BusUnavailableError) as error:
        return CheckedMessage(message, visible(str(error)))
    if isinstance(record, NoEntry):
        return CheckedMessage(message, in_ledger=False)
    if record.entry.result_id == result.id:
        status = TaskStatus(record, coordinator.agent)
        return CheckedMessage(message, status=status if is_unsure(status) else None)
    has = "another result" if record.entry.terminal else "no result"
    return CheckedMessage(message, f"the ledger has {has} of this task")


async def _check_cursor(bus: Bus, cursor: int) -> None:
    """Refuse a cursor beyond the end: waiting behind it would miss every message up to it."""
    try:
        last = (await bus.stream_info(subjects.RESULTS_STREAM)).state.last_seq
    except PermissionDeniedError:
        return
    if cursor > last:
        raise ArgumentError(
            f"cursor: {cursor} is beyond the end of the inbox ({last}): it is of another bus, or the streams were made "
            "anew. Leave it out, and read what is there with get_results"
        )
