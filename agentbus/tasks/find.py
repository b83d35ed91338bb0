"""Finding tasks in the ledger by their ids."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.concurrently import concurrently
from agentbus.errors import CorruptEntryError, PermissionDeniedError, TaskNotFoundError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record, read_entry
from agentbus.protocol.stored_message import StoredMessage
from agentbus.tasks.ledger import Ledger

_READS_AT_ONCE: Final = 16
_LAG_PAUSE_S: Final = 0.1

Found: TypeAlias = dict[tuple[str, str], Record]
"""Ledger entries by agent and task id."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The ledger entries of one task id by agent, and those that cannot be read.

    Every worker may write any key under its own agent, so an entry that cannot be read hides no other one.
    """

    readable: dict[str, Record] = field(default_factory=dict[str, Record])
    unreadable: list[CorruptEntryError] = field(default_factory=list[CorruptEntryError])

    def __bool__(self) -> bool:
        return bool(self.readable or self.unreadable)

    def add(self, stored: StoredMessage) -> None:
        try:
            record = read_entry(stored)
        except CorruptEntryError as error:
            self.unreadable.append(error)
        else:
            if isinstance(record, Record):
                self.readable[record.agent] = record


async def find(bus: Bus, task_id: str, agent: str | None = None) -> Record:
    """Read the ledger entry of a task.

    Raises:
        TaskNotFoundError: there is none, or several agents have a task of this id and `agent` is not given.
        CorruptEntryError: it cannot be read.
    """
    async for attempt in retry_until(deadline_after(bus.lag_s), _LAG_PAUSE_S):
        try:
            return await _find(bus, task_id, agent)
        except TaskNotFoundError:
            # The replica that answered may lag behind.
            if attempt.last:
                raise
    raise AssertionError("the last attempt returns or raises")


async def find_newer(bus: Bus, record: Record, revision: int) -> Record:
    """Read a known entry at `revision` or later; see `Ledger.read_newer`."""
    found = await Ledger(bus).read_newer(record.agent, record.task_id, revision - 1)
    return found if isinstance(found, Record) else record


async def _find(bus: Bus, task_id: str, agent: str | None) -> Record:
    if agent is not None:
        found = await Ledger(bus).read(subjects.agent_id(agent), task_id)
        if not isinstance(found, Record):
            raise TaskNotFoundError(f"no task {task_id} of the agent {agent} is known on this bus")
        return found
    candidates = await _stored(bus, task_id) or await _stored_at_the_leader(bus, task_id)
    records = candidates.readable
    if not records:
        if candidates.unreadable:
            raise candidates.unreadable[0]
        raise TaskNotFoundError(f"no task {task_id} is known on this bus; ids are kept for 38 days")
    if len(records) > 1:
        agents = ", ".join(records)
        raise TaskNotFoundError(f"several agents have a task {task_id} ({agents}); name the agent")
    return next(iter(records.values()))


async def _stored(bus: Bus, task_id: str) -> _Candidates:
    """Read the entries of a task id. Makes no consumer: a stream has room for 1000 of them.

    Returns none if the replica that answers lags behind, or if this user may not read so.
    """
    keys = subjects.states_of_task(task_id)
    candidates = _Candidates()
    with suppress(PermissionDeniedError):
        newest = await bus.last_message(subjects.STATE_STREAM, keys)
        seq = 1
        while newest is not None and (stored := await bus.next_message(subjects.STATE_STREAM, keys, seq)) is not None:
            candidates.add(stored)
            if stored.seq >= newest.seq:
                break
            seq = stored.seq + 1
    return candidates


async def _stored_at_the_leader(bus: Bus, task_id: str) -> _Candidates:
    """Read the same through a consumer, which sees every acknowledged write."""
    candidates = _Candidates()
    async with OrderedConsumer(bus, subjects.STATE_STREAM, subjects.states_of_task(task_id), after=0) as consumer:
        async for message in consumer.backlog():
            candidates.add(message.stored)
    return candidates


async def find_all(bus: Bus, wanted: Iterable[tuple[str, str | None]]) -> tuple[Found, dict[str, CorruptEntryError]]:
    """Read the entries of (task id, agent) pairs, a bounded number at a time.

    Returns those that can be read, and by task id the errors of the others.

    Raises:
        TaskNotFoundError: see `find`; the first one if there are several.
    """
    unreadable: dict[str, CorruptEntryError] = {}

    async def one(pair: tuple[str, str | None]) -> Record | None:
        try:
            return await find(bus, *pair)
        except CorruptEntryError as error:
            unreadable[pair[0]] = error
            return None

    records = await concurrently(wanted, one, at_once=_READS_AT_ONCE)
    return {(record.agent, record.task_id): record for record in records if record is not None}, unreadable
