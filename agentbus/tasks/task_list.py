"""Listing tasks: the newest first, by the last change of their ledger entries.

The ledger keeps one message for each task, and every change moves it to the end of the stream. So the sequence orders
tasks by their last change, and a cursor is a sequence below which to continue. The headers of an entry hold its state;
only entries that may be shown are read whole.
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer, count_after, position_before_newest
from agentbus.concurrently import concurrently
from agentbus.errors import CorruptEntryError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.headers import STATE
from agentbus.protocol.ledger_entry import Record, State, read_entry
from agentbus.protocol.subjects import COORDINATOR
from agentbus.tasks.status import TaskStatus

MAX_LISTED: Final = 200
SCAN_LIMIT: Final = 2_000
"""How many entries one call examines at most; that takes about a tenth of a second."""
_SCAN_STEP: Final = 500
_READ_STEP: Final = 16


@dataclass(frozen=True, slots=True)
class TaskList:
    """Tasks by their last change, the newest first.

    Attributes:
        cursor: where the next call continues, towards older tasks; None if there are none.
        partial: whether the search stopped early, at its limit of entries.
        unreadable: for each entry that cannot be shown, why.
    """

    tasks: list[TaskStatus]
    cursor: int | None = None
    partial: bool = False
    unreadable: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class _Key:
    """An entry by its sequence and its headers; `state` is None where they hold none."""

    seq: int
    subject: str
    state: str | None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which entries are shown to whom, among those that the subject of the search covers."""

    state: State | None
    owner: str | None
    asker: str

    def may_be(self, key: _Key) -> bool:
        """Whether an entry may be shown. A queued one may be cancelled: the request stands in its value only."""
        if self.owner == COORDINATOR:  # the subject does not tell its tasks from those of other owners
            task = subjects.parse_state(key.subject)
            if task is not None and task.owner != self.owner:
                return False
        return self.state is None or key.state in (None, self.state, "queued" if self.state == "cancelled" else None)


async def list_tasks(
    bus: Bus,
    *,
    agent: str | None = None,
    owner: str | None = None,
    state: State | None = None,
    limit: int = 20,
    cursor: int | None = None,
    asker: str = COORDINATOR,
) -> TaskList:
    """List the newest tasks by last change, of one agent or of all, of one owner or of all, in one state or in any.

    The work is bounded: see `TaskList.partial`. A task that changes between two calls moves to the front, so a call
    that continues from a cursor leaves it out.

    Args:
        limit: 1 to 200.
        cursor: the `cursor` of an earlier list with the same agent and state.
        asker: the coordinator that looks.

    Raises:
        MessageError: `limit` is out of bounds.
        SetupMissingError: there is no ledger on this bus.
        PermissionDeniedError: this user may not read it.
    """
    if not 1 <= limit <= MAX_LISTED:
        raise MessageError(f"limit must be from 1 to {MAX_LISTED}, not {limit}")
    subject = subjects.states(agent or "*", owner)
    step = limit if state is None and owner != COORDINATOR else _SCAN_STEP
    shown, unreadable, examined = list[TaskStatus](), list[str](), 0
    while examined < SCAN_LIMIT:
        keys, older = await _before(bus, subject, cursor, min(step, SCAN_LIMIT - examined))
        if not keys:
            return TaskList(shown, unreadable=unreadable)
        examined += len(keys)
        last = await _show(bus, keys, _Wanted(state, owner, asker), limit, shown, unreadable)
        if len(shown) == limit:
            return TaskList(shown, last.seq if older or last is not keys[-1] else None, unreadable=unreadable)
        if not older:
            return TaskList(shown, unreadable=unreadable)
        cursor = last.seq
    return TaskList(shown, cursor, partial=True, unreadable=unreadable)


async def _before(bus: Bus, subject: str, before: int | None, count: int) -> tuple[list[_Key], bool]:
    """Read the newest `count` entries below a sequence, newest first, and whether there are older ones."""
    stream = subjects.STATE_STREAM
    while True:
        start = await position_before_newest(bus, stream, subject, count, before=before)
        keys = (await _between(bus, subject, start, before))[:count]
        if keys:
            behind = await count_after(bus, stream, subject, keys[-1].seq - 1)
            return keys, await count_after(bus, stream, subject, 0) > behind
        if start == 0:
            return [], False
        # The entries there have moved to the end meanwhile, or are records of MCP tasks.
        before, count = start + 1, 2 * count


async def _between(bus: Bus, subject: str, after: int, before: int | None) -> list[_Key]:
    """Read the entries between two sequences, newest first."""
    found: dict[str, _Key] = {}
    async with (
        OrderedConsumer(bus, subjects.STATE_STREAM, subject, after=after, headers_only=True) as consumer,
        aclosing(consumer.backlog()) as backlog,
    ):
        async for message in backlog:
            if before is not None and message.stream_seq >= before:
                break
            if subjects.parse_mcp_task(message.subject) is not None:
                continue
            found.pop(message.subject, None)  # it has changed meanwhile, and now belongs at the end
            state = message.headers.get(STATE)
            found[message.subject] = _Key(message.stream_seq, message.subject, state)
    return list(reversed(found.values()))


async def _show(
    bus: Bus, keys: Sequence[_Key], wanted: _Wanted, limit: int, shown: list[TaskStatus], unreadable: list[str]
) -> _Key:
    """Add the tasks that are wanted to `shown` until it holds `limit`; return the entry that was examined last."""
    chosen = [key for key in keys if wanted.may_be(key)]
    for first in range(0, len(chosen), _READ_STEP):
        batch = chosen[first : first + _READ_STEP]
        for key, found in zip(batch, await _read(bus, batch, wanted.asker), strict=True):
            if isinstance(found, str):
                unreadable.append(found)
            elif found is not None and wanted.state in (None, found.state):
                shown.append(found)
            if len(shown) == limit:
                return key
    return keys[-1]


async def _read(bus: Bus, keys: Sequence[_Key], asker: str) -> list[TaskStatus | str | None]:
    """Read entries concurrently: a task, or why it cannot be read, or None if it was removed."""

    async def one(key: _Key) -> TaskStatus | str | None:
        message = await bus.last_message(subjects.STATE_STREAM, key.subject)
        try:
            record = read_entry(message) if message is not None else None
        except CorruptEntryError as error:
            return str(error)
        return TaskStatus(record, asker) if isinstance(record, Record) else None

    return await concurrently(keys, one, at_once=_READ_STEP)
