"""Finding tasks in the ledger by their ids."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.reading.ledger_parts import Part, is_divided, ledger_parts, remembered_parts
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.concurrently import concurrently
from agentbus.errors import CorruptEntryError, PermissionDeniedError, TaskNotFoundError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record, read_entry
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.task_names import TaskQuery
from agentbus.shared_work import SharedWork
from agentbus.tasks.ledger import Ledger

READS_AT_ONCE: Final = 16
"""How many entries are read at the same time."""
_LAG_PAUSE_S: Final = 0.1

Found: TypeAlias = dict[TaskKey, Record]
"""Ledger entries by their tasks."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The ledger entries of one task id, and those that cannot be read.

    Every worker may write any key under its own agent, so an entry that cannot be read hides no other one.
    """

    id: str
    readable: Found = field(default_factory=dict[TaskKey, Record])
    unreadable: list[CorruptEntryError] = field(default_factory=list[CorruptEntryError])

    def __bool__(self) -> bool:
        return bool(self.readable or self.unreadable)

    def add(self, stored: StoredMessage) -> None:
        key = subjects.parse_state(stored.subject)
        if key is None or key.id != self.id:
            return  # the pattern of one id also matches ids with dots, and keys that are none of ours
        try:
            record = read_entry(stored)
        except CorruptEntryError as error:
            self.unreadable.append(error)
        else:
            if isinstance(record, Record):
                self.readable[key] = record

    def the_one(self) -> Record:
        """Return the only task among the entries.

        Raises:
            TaskNotFoundError: there are several.
            CorruptEntryError: none can be read.
        """
        if not self.readable:
            raise self.unreadable[0]
        if len(self.readable) > 1 and len({key.owner for key in self.readable}) == 1:
            agents = ", ".join(key.agent for key in self.readable)
            raise TaskNotFoundError(f"several agents have a task {self.id} ({agents}); name the agent")
        if len(self.readable) > 1:
            shown = ", ".join(f"{key.agent} of {key.owner}" for key in self.readable)
            raise TaskNotFoundError(
                f"there are several tasks {self.id} (for {shown}); name the agent and, for that of another, its owner"
            )
        return next(iter(self.readable.values()))


_looks: WeakKeyDictionary[Bus, SharedWork[_Candidates]] = WeakKeyDictionary()
"""The look-ups that are under way over a connection."""


async def find(bus: Bus, query: TaskQuery) -> Record:
    """Read the ledger entry of a task.

    Raises:
        TaskNotFoundError: there is none, or there are several that the query does not tell apart.
        CorruptEntryError: it cannot be read.
    """
    async for attempt in retry_until(deadline_after(bus.lag_s), _LAG_PAUSE_S):
        try:
            return await _find(bus, query)
        except TaskNotFoundError:
            # The replica that answered may lag behind.
            if attempt.last:
                raise
    raise AssertionError("the last attempt returns or raises")


async def find_newer(bus: Bus, record: Record, revision: int) -> Record:
    """Read a known entry at `revision` or later; see `Ledger.read_newer`."""
    found = await Ledger(bus).read_newer(record.key, revision - 1)
    return found if isinstance(found, Record) else record


async def _find(bus: Bus, query: TaskQuery) -> Record:
    owner = query.owner if query.owner is not None else query.asker
    agent = subjects.agent_id(query.agent) if query.agent is not None else "*"
    if query.agent is not None:
        found = await Ledger(bus).read(TaskKey(agent, query.id, owner))
        if isinstance(found, Record):
            return found
    else:
        keys = subjects.states_of_task(query.id, owner=owner)
        if candidates := await _shared(bus, query.id, keys, by_sequence=owner == COORDINATOR):
            return candidates.the_one()
    if query.owner is None and (others := await _of_others(bus, query.id, agent, looked_at=owner)):
        return others.the_one()
    raise _not_found(query)


async def _of_others(bus: Bus, task_id: str, agent: str, looked_at: str) -> _Candidates | None:
    """Read the entries of a task id of all owners but the one that was looked at."""
    owners = [COORDINATOR, "*"]
    if await is_divided(bus):
        if not bus.reads_whole_ledger:
            return None  # a member can read no keys of others: each agent's stream would refuse it
        owners = [owner for owner in owners if owner != looked_at]
    return await _candidates(bus, task_id, *sorted(subjects.states_of_task(task_id, agent, owner) for owner in owners))


def _not_found(query: TaskQuery) -> TaskNotFoundError:
    where = f" of the agent {query.agent}" if query.agent is not None else ""
    whose = f" that {query.owner} has published" if query.owner is not None else ""
    return TaskNotFoundError(
        f"no task {query.id}{where}{whose} is known on this bus; ids are kept for 38 days by default"
    )


async def _shared(bus: Bus, task_id: str, keys: str, *, by_sequence: bool) -> _Candidates:
    """Read the same as `_candidates`, once for all who ask in the same moment: it may ask a hundred ledgers."""
    looks = _looks.setdefault(bus, SharedWork[_Candidates]())
    return await looks.do((keys, by_sequence), lambda: _candidates(bus, task_id, keys, by_sequence=by_sequence))


async def _candidates(bus: Bus, task_id: str, *patterns: str, by_sequence: bool = True) -> _Candidates:
    """Read the entries of a task id that match patterns.

    Args:
        by_sequence: whether to read by sequence, which a member may not: a sequence has no owner.
    """
    found = _Candidates(task_id)
    remembered = [part for pattern in patterns for part in remembered_parts(bus, pattern)]
    await _add_of_agents(bus, remembered, found)
    if found:
        return found
    parts = [part for pattern in patterns for part in await ledger_parts(bus, pattern)]
    if parts and parts[0].stream == subjects.STATE_STREAM:
        await _add_undivided(bus, parts, found, by_sequence=by_sequence)
    else:
        known = {part.stream for part in remembered}
        await _add_of_agents(bus, [part for part in parts if part.stream not in known], found)
    return found


async def _add_undivided(bus: Bus, parts: Sequence[Part], candidates: _Candidates, *, by_sequence: bool) -> None:
    """Read from the one stream, a second time where a replica of it may lag behind."""
    for part in parts if by_sequence else ():
        await _add_stored(bus, part, candidates)
    for part in parts if not candidates else ():
        await _add_through_a_consumer(bus, part, candidates)


async def _add_of_agents(bus: Bus, parts: Sequence[Part], candidates: _Candidates) -> None:
    """Read from the streams of several agents, each of which has one key or, by a wildcard, some."""

    async def add(part: Part) -> None:
        if "*" not in part.subject:
            await _add_newest(bus, part, candidates)
        elif bus.reads_whole_ledger:  # others may not read so, and the server logs each refusal
            await _add_stored(bus, part, candidates)

    await concurrently(parts, add, at_once=READS_AT_ONCE)


async def _add_newest(bus: Bus, part: Part, candidates: _Candidates) -> None:
    """Read one key."""
    with suppress(PermissionDeniedError):
        if (stored := await bus.last_message(subjects.STATE_STREAM, part.subject)) is not None:
            candidates.add(stored)


async def _add_stored(bus: Bus, part: Part, candidates: _Candidates) -> None:
    """Read the entries that match a pattern. Makes no consumer: a stream has room for a limited number of them.

    Adds none if the replica that answers lags behind, or if this user may not read so.
    """
    with suppress(PermissionDeniedError):
        newest = await bus.last_message(subjects.STATE_STREAM, part.subject)
        seq = 1
        while newest and (stored := await bus.next_message(part.stream, part.subject, seq)) is not None:
            candidates.add(stored)
            if stored.seq >= newest.seq:
                break
            seq = stored.seq + 1


async def _add_through_a_consumer(bus: Bus, part: Part, candidates: _Candidates) -> None:
    """Read the same through a consumer, which lies on another replica as a rule, and is made a moment later."""
    with suppress(PermissionDeniedError):
        async with OrderedConsumer(bus, part.stream, part.subject, after=0) as consumer:
            async for message in consumer.backlog():
                candidates.add(message.stored)


async def find_all(bus: Bus, wanted: Iterable[TaskQuery]) -> tuple[Found, dict[TaskQuery, CorruptEntryError]]:
    """Read the entries of tasks, a bounded number at a time.

    Returns those that can be read, and the errors of the others.

    Raises:
        TaskNotFoundError: see `find`; the first one if there are several.
    """
    unreadable: dict[TaskQuery, CorruptEntryError] = {}

    async def one(query: TaskQuery) -> Record | None:
        try:
            return await find(bus, query)
        except CorruptEntryError as error:
            unreadable[query] = error
            return None

    records = await concurrently(wanted, one, at_once=READS_AT_ONCE)
    return {record.key: record for record in records if record is not None}, unreadable
