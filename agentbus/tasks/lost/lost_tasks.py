"""Finds tasks that the ledger has as queued and that the queue does not hold, and settles those that are lost for sure.

A purge, a deletion, a block that a server has lost, or a publisher that died between its two steps leaves such a task:
no worker will ever get it. A party that may read the queue proves it. Others can only tell that it may be so.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.reading.backwards import Read
from agentbus.bus.reading.ledger_parts import part_of
from agentbus.bus.reading.ledger_reader import LedgerReader
from agentbus.errors import CorruptEntryError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.headers import STATE
from agentbus.protocol.ledger_entry import NoEntry, Record, read_entry
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.tasks.expiry import may_have_expired, settle_expired, settle_unrun
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.publish import LOST_AFTER_S
from agentbus.tasks.queue.queue_state import queue_state
from agentbus.tasks.queue.queue_walk import missing_in_queue
from agentbus.tasks.status import Loss, TaskStatus

_NAMED_AFTER_S: Final = 2.0
"""How long an entry is queued, unchanged, before its message is looked for: it is stored within milliseconds, but while
a cluster elects a leader."""
_LOOK_S: Final = 2.0
"""How long looking for messages may take: it adds to an answer that a person or a model waits for."""
SEARCHED: Final = 2_000
"""How many entries a search looks at by default; that takes about a tenth of a second."""
_MOST_READ: Final = 50
"""How many lost tasks one search reads: a person who has lost more looks again, or at the streams."""
LOST: Final = "expired: the queue lost the message of this task before a worker had taken it; publish it as a new task"


async def look_after(
    bus: Bus, records: Iterable[Record], *, asker: str = COORDINATOR, settles: bool = True
) -> list[TaskStatus]:
    """Return the state of each task, with those settled that can no longer run.

    These are the expired ones, see `settle_expired`, and those whose message is proved to be lost for longer than any
    publication takes, by the server's clock. The state of a task that is not settled says whether it is lost.

    Args:
        asker: the coordinator that looks.
        settles: whether lost tasks are settled; otherwise they are only named.
    """
    found = list(records)
    if may_have_expired(found):
        counted = not bus.reads_queue and any(one.entry.state == "queued" for one in found)
        queue = await queue_state(bus, counted=counted)
        found = await settle_expired(bus, found, queue)
    else:
        queue = None
    waiting = [one for one in found if one.entry.state == "queued"]
    changed = await _losses(bus, waiting, queue, settles=settles) if waiting and queue is not None else {}
    return [TaskStatus(now, asker, loss) for now, loss in (changed.get(record.key, (record, None)) for record in found)]


def to_look_after(records: Iterable[Record], now: datetime | None) -> list[Record]:
    """Return the records of which `look_after` can say something: the others have changed a moment before `now`.

    Args:
        now: the time of the server; None if it does not tell it.
    """
    return [record for record in records if now is None or _age_s(record, now) >= _NAMED_AFTER_S]


async def lost_tasks(
    bus: Bus,
    *,
    agent: str | None = None,
    owner: str | None = None,
    asker: str = COORDINATOR,
    settles: bool = True,
    newest: int | None = SEARCHED,
) -> list[TaskStatus]:
    """Search the ledger for lost tasks, of one agent or of all, of one owner or of all; see `look_after`.

    Returns those that are lost, and those that this has settled for that reason; at most 50, the longest lost first.

    Args:
        newest: how many entries are searched, about, those that changed last; None for all.

    Raises:
        SetupMissingError: there is no ledger on this bus.
        PermissionDeniedError: this user may not read it.
        BusUnavailableError: the bus did not answer in time.
    """
    keys = await _queued(bus, subjects.states(agent or "*", owner), owner, newest)
    if bus.reads_queue:
        missing = await _missing(bus, keys)
        keys = [key for key in keys if key in missing or not bus.reads_queue]
    records = [found for key in keys[:_MOST_READ] if isinstance(found := await _entry_now(bus, key), Record)]
    return [one for one in await look_after(bus, records, asker=asker, settles=settles) if one.loss is not None]


async def _losses(
    bus: Bus, records: Sequence[Record], queue: StreamInfo, *, settles: bool
) -> dict[TaskKey, tuple[Record, Loss | None]]:
    """Return what becomes of the tasks among `records`, all of them queued, that the queue does not hold."""
    age_s = {one.key: _age_s(one, queue.server_time) for one in records}
    looked_for = {one.key: one for one in records if age_s[one.key] >= _NAMED_AFTER_S}
    kind = Loss.PROVED if bus.reads_queue else Loss.POSSIBLE
    if kind is Loss.POSSIBLE:
        missing = _perhaps_missing(looked_for.values(), queue.state.subjects or {})
    else:
        missing = await _missing(bus, looked_for)
        if not bus.reads_queue:
            # This user may not, as the server says by now.
            counts = await queue_state(bus, counted=True)
            return await _losses(bus, records, counts, settles=settles) if counts is not None else {}
    return {
        key: await _judged(bus, looked_for[key], kind, settles=settles and age_s[key] >= LOST_AFTER_S)
        for key in missing
    }


async def _judged(bus: Bus, record: Record, kind: Loss, *, settles: bool) -> tuple[Record, Loss | None]:
    """Return what becomes of a task that had no message, unless its entry has changed since it was read."""
    now = await _entry_now(bus, record.key)
    if now.revision != record.revision:
        return (now if isinstance(now, Record) else record), None
    return (await settle_unrun(bus, record, LOST) if settles and kind is Loss.PROVED else record), kind


def _age_s(record: Record, now: datetime | None) -> float:
    """Return how long an entry has not changed; nothing is known with a server before 2.10, which tells no time."""
    return (now - record.changed_at).total_seconds() if now is not None else 0.0


async def _missing(bus: Bus, keys: Iterable[TaskKey]) -> set[TaskKey]:
    """Return which tasks have no message in the queue, as far as it can be read in time."""
    of_agents: dict[str, list[TaskKey]] = {}
    for key in keys:
        of_agents.setdefault(key.agent, []).append(key)
    missing = set[TaskKey]()
    try:
        async with asyncio.timeout(_LOOK_S):
            for agent, wanted in of_agents.items():
                missing |= await missing_in_queue(bus, agent, wanted)
    except PermissionDeniedError:
        bus.reads_queue = False
    except TimeoutError:
        pass  # a long queue: of the agents that were not read to the end, nothing is known
    return missing


def _perhaps_missing(records: Iterable[Record], messages: dict[str, int]) -> set[TaskKey]:
    """Return the tasks of which at least one has no message, by how many messages their subjects have."""
    of_subjects: dict[str, set[TaskKey]] = {}
    for one in records:
        subject = subjects.tasks_of(one.agent, one.owner, second=one.entry.in_second_form)
        of_subjects.setdefault(subject, set()).add(one.key)
    return {key for subject, keys in of_subjects.items() if len(keys) > messages.get(subject, 0) for key in keys}


async def _entry_now(bus: Bus, key: TaskKey) -> Record | NoEntry:
    """Read an entry once more, after the queue was; the compare-and-set that settles it decides."""
    try:
        if not bus.clustered:
            return await Ledger(bus).read(key)
        # The replica that answers may lag behind. A consumer lies on another one as a rule, and is made a moment later.
        part = await part_of(bus, subjects.state(key))
        async with OrderedConsumer(bus, part.stream, part.subject, after=0) as consumer:
            async for message in consumer.backlog():
                return read_entry(message.stored)
    except CorruptEntryError:
        pass  # a look at this task alone says what is wrong with it
    return NoEntry()


async def _queued(bus: Bus, wanted: str, owner: str | None, newest: int | None) -> list[TaskKey]:
    """Read which tasks the ledger has as queued, by their last change, the oldest first."""

    def keep(entry: Read) -> bool:
        key = subjects.parse_state(entry.subject) if entry.headers.get(STATE) == "queued" else None
        return key is not None and owner in (None, key.owner)

    found: dict[TaskKey, None] = {}  # an entry may be read twice, while it changes
    searched = 0
    reader = await LedgerReader.of(bus, wanted)
    # A window has room for four times as many entries as it is asked for.
    async with aclosing(reader.windows(keep=keep, count=max(1, (newest or SEARCHED) // 4))) as windows:
        async for window in windows:
            searched += window.read
            keys = map(subjects.parse_state, [entry.subject for entry in window.messages])
            found |= dict.fromkeys(key for key in keys if key is not None and key not in found)
            if newest is not None and searched >= newest // 4:
                break
    return list(reversed(found))
