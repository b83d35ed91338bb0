"""Waiting for tasks: follows the ledger until enough of them are settled, over broken connections and restarts."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final, Literal, TypeAlias, TypeVar

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.errors import ApiError, BusError, BusUnavailableError, CorruptEntryError, SetupMissingError
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.task_names import TaskQuery, short_names
from agentbus.tasks.find import Found, find_all, find_newer
from agentbus.tasks.lost.lost_tasks import look_after
from agentbus.tasks.presence import PausedWorker, present
from agentbus.tasks.status import Loss, TaskStatus, Waited

Until: TypeAlias = Literal["all", "any"]
OnChange: TypeAlias = Callable[[TaskStatus], None]
OnPaused: TypeAlias = Callable[[str, PausedWorker], None]
_T = TypeVar("_T")

_LAST_LOOK_S: Final = 3.0
"""How long the last read of the tasks may take when the time is over: callers wait for it beyond their time-out."""
_STARTING_S: Final = 30.0
"""How long after a reconnect a missing stream is taken for one that the server is still loading."""
_PAUSE_S: Final = 0.2
_EXPIRY_LOOK_S: Final = 120.0
"""How often a wait looks for tasks that can no longer run: that changes no ledger entry, so the consumer does not show
it. As often as a task can be settled as lost."""
_LAG_LOOK_S: Final = 5.0
"""How often a wait in a cluster reads all tasks again. A lagging replica may have answered the first read without a
change that happened before the consumer was made."""

_FIRST_PAUSE_LOOK_S: Final = 1.0
"""A wait for a quick task costs no look."""
_PAUSE_LOOK_S: Final = 10.0
"""How often a longer wait looks: a worker announces a pause within two seconds, and people read what comes of it."""
_LAST_PAUSE_LOOK_S: Final = 1.0
"""How long a wait that was too short for a look takes longer for one."""


@dataclass(slots=True)
class _Watched:
    """The tasks that are waited for: their entries as they were read last, and those that cannot be read now."""

    records: Found
    asker: str
    unreadable: dict[TaskKey, CorruptEntryError] = field(default_factory=dict[TaskKey, CorruptEntryError])
    losses: dict[TaskKey, Loss | None] = field(default_factory=dict[TaskKey, Loss | None])

    def unsettled(self) -> list[TaskQuery]:
        return [_query(key) for key, one in self.records.items() if not _settled(one)]

    def queued_for(self) -> set[str]:
        """The agents of the tasks that wait for a worker."""
        return {key.agent for key in self.records if self.status(key).state == "queued"}

    def enough(self, until: Until) -> bool:
        """Whether the wait is over. Only the party that wrote an unreadable entry knows whether it will ever change."""
        readable = [record for key, record in self.records.items() if key not in self.unreadable]
        done = [_settled(record) for record in readable]
        return all(done) if until == "all" else any(done) or not done

    async def read_again(self, bus: Bus) -> None:
        found, unreadable = await find_all(bus, self.unsettled())
        self.records.update(found)
        self.unreadable = {key: unreadable[query] for key in self.records if (query := _query(key)) in unreadable}

    async def read_change(self, bus: Bus, key: TaskKey, revision: int) -> None:
        """Read an entry that has changed, at `revision` or later."""
        try:
            self.records[key] = await find_newer(bus, self.records[key], revision)
            self.unreadable.pop(key, None)
        except CorruptEntryError as error:
            self.unreadable[key] = error

    async def look_after(self, bus: Bus) -> None:
        """Settle the tasks that can no longer run, and learn which are lost."""
        found = await look_after(bus, [record for record in self.records.values() if not _settled(record)])
        self.records.update({status.record.key: status.record for status in found})
        self.losses = {status.record.key: status.loss for status in found}

    def status(self, key: TaskKey) -> TaskStatus:
        return TaskStatus(self.records[key], self.asker, self.losses.get(key))

    def outcome(self, *, current: bool) -> Waited:
        """What came of the tasks: by their ids, and by their names where several have the same id."""
        names = short_names(self.asker, self.records)
        statuses = {name: self.status(key) for key, name in names.items()}
        return Waited(
            settled={name: status for name, status in statuses.items() if status.settled},
            pending={name: status for name, status in statuses.items() if not status.settled},
            current=current,
            unreadable={names[key]: error for key, error in self.unreadable.items()},
        )


def _query(key: TaskKey) -> TaskQuery:
    return TaskQuery(key.id, key.agent, key.owner)


def _settled(record: Record) -> bool:
    return TaskStatus(record).settled


async def wait_for(
    bus: Bus,
    found: Found,
    *,
    asker: str = COORDINATOR,
    until: Until = "all",
    timeout_s: float | None = None,
    on_change: OnChange | None = None,
    on_paused: OnPaused | None = None,
) -> Waited:
    """Wait until all, or any, of the tasks in `found` are settled, or the time is over.

    Returns at once when nothing is left to wait for. A lost connection or a stopped server does not end the wait. If
    the bus is still away when the time is over, the answer has the states that were seen last. A time-out does nothing
    to the tasks.

    Args:
        asker: the coordinator that waits.
        on_paused: called once for each agent of a queued task of which all living workers are paused. Without it none
            is looked for.

    Raises:
        BusError: the connection has ended for good, or the ledger may not be read.
    """
    watched = _Watched(dict(found), asker)
    if on_paused is None:
        return await _wait(bus, watched, until, timeout_s, on_change)
    pauses = _PausedAgents(bus, watched.queued_for, on_paused)
    watching = asyncio.create_task(pauses.watch())
    try:
        waited = await _wait(bus, watched, until, timeout_s, on_change)
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    if waited.current and not watched.enough(until):
        await pauses.look_at_the_end()
    return replace(waited, paused={agent: pauses.found[agent] for agent in pauses.found.keys() & watched.queued_for()})


async def _wait(
    bus: Bus, watched: _Watched, until: Until, timeout_s: float | None, on_change: OnChange | None
) -> Waited:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not watched.enough(until):
                try:
                    await watched.look_after(bus)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LAG_LOOK_S if bus.clustered else _EXPIRY_LOOK_S):
                            await _follow(bus, watched, until, on_change)
                except (BusUnavailableError, SetupMissingError, ApiError) as error:
                    if not isinstance(error, BusUnavailableError) and bus.seconds_since_reconnect > _STARTING_S:
                        raise
                    await asyncio.sleep(_PAUSE_S)
                    await bus.wait_connected()
    return watched.outcome(current=await _look_again(bus, watched))


async def wait_for_ids(
    bus: Bus,
    wanted: Iterable[TaskQuery],
    *,
    asker: str = COORDINATOR,
    until: Until = "all",
    timeout_s: float | None = None,
    on_change: OnChange | None = None,
    on_paused: OnPaused | None = None,
) -> Waited:
    """Look up tasks, then wait as `wait_for` does; link the trace of the caller to the results.

    Args:
        asker: the coordinator that waits.
        on_paused: see `wait_for`.

    Raises:
        TaskNotFoundError: the bus knows no task of one of the ids.
        CorruptEntryError: none of the tasks can be read.
        BusUnavailableError: the bus was away for all of `timeout_s`.
    """
    clock = asyncio.get_running_loop().time
    deadline = None if timeout_s is None else clock() + timeout_s
    queries = list(wanted)
    found, unreadable = await repeat_while_away(bus, lambda: find_all(bus, queries), timeout_s)
    if unreadable and not found:
        raise next(iter(unreadable.values()))
    rest_s = None if deadline is None else max(0.0, deadline - clock())
    waited = await wait_for(
        bus, found, asker=asker, until=until, timeout_s=rest_s, on_change=on_change, on_paused=on_paused
    )
    for status in waited.settled.values():
        tracing.link(status.record.headers)
    times = Counter(query.id for query in queries)
    for query, error in unreadable.items():
        waited.unreadable[query.id if times[query.id] == 1 else str(query.name)] = error
    return waited


async def repeat_while_away(bus: Bus, read: Callable[[], Awaitable[_T]], timeout_s: float | None) -> _T:
    """Return what `read` returns; if the bus is away, wait up to `timeout_s` for the connection and read again.

    Raises:
        BusUnavailableError: the bus was away for too long.
    """
    clock = asyncio.get_running_loop().time
    deadline = None if timeout_s is None else clock() + timeout_s
    while True:
        try:
            return await read()
        except BusUnavailableError:
            if deadline is not None and clock() >= deadline:
                raise
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await bus.wait_connected()


async def _follow(bus: Bus, tasks: _Watched, until: Until, on_change: OnChange | None) -> None:
    """Follow the ledger and update `tasks` until enough of them are settled."""
    agents, owners = {key.agent for key in tasks.records}, {key.owner for key in tasks.records}
    watched = subjects.states(agents.pop() if len(agents) == 1 else "*", owners.pop() if len(owners) == 1 else None)
    async with OrderedConsumer(bus, subjects.STATE_STREAM, watched, after="new", headers_only=True) as consumer:
        # Read again now that the consumer exists, so that no change falls between the two.
        await tasks.read_again(bus)
        while not tasks.enough(until):
            change = await consumer.next()
            key = subjects.parse_state(change.subject)
            if key is None or key not in tasks.records:
                continue
            before = tasks.records[key]
            await tasks.read_change(bus, key, change.stream_seq)
            if on_change is not None and tasks.records[key] is not before:
                on_change(tasks.status(key))


async def _look_again(bus: Bus, tasks: _Watched) -> bool:
    """Read the tasks once more; return False if the bus does not answer."""
    try:
        async with asyncio.timeout(_LAST_LOOK_S):
            await tasks.read_again(bus)
            await tasks.look_after(bus)
    except (TimeoutError, BusUnavailableError):
        return False
    return True


class _PausedAgents:
    """The agents of which all living workers are paused, as they were seen last. `found` is what a wait returns."""

    def __init__(self, bus: Bus, waiting: Callable[[], set[str]], on_paused: OnPaused) -> None:
        """Take what says of which agents a task waits, and what is called once for each of them that is paused."""
        self._bus = bus
        self._waiting = waiting
        self._on_paused = on_paused
        self._told: set[str] = set()
        self._looked = False
        self.found: dict[str, PausedWorker] = {}

    async def watch(self) -> None:
        """Look again and again, until this is cancelled, or this user may not see workers."""
        await asyncio.sleep(_FIRST_PAUSE_LOOK_S)
        while True:
            try:
                await self._look()
            except BusUnavailableError:
                pass  # as the wait, it goes on once the bus is back
            except BusError:
                return
            await asyncio.sleep(_PAUSE_LOOK_S)

    async def look_at_the_end(self) -> None:
        """Look, if there was no time for it before."""
        if not self._looked:
            with suppress(BusError, TimeoutError):
                async with asyncio.timeout(_LAST_PAUSE_LOOK_S):
                    await self._look()

    async def _look(self) -> None:
        if agents := self._waiting():
            self.found = await _paused_among(self._bus, agents)
            for agent, paused in self.found.items():
                if agent not in self._told:
                    self._told.add(agent)
                    self._on_paused(agent, paused)
        self._looked = True


async def _paused_among(bus: Bus, agents: set[str]) -> dict[str, PausedWorker]:
    workers = await present(bus, next(iter(agents)) if len(agents) == 1 else None)
    found: dict[str, PausedWorker] = {}
    for agent, its_workers in groupby(workers, key=lambda worker: worker.agent):
        pauses = [worker.paused for worker in its_workers]
        if agent in agents and (first := pauses[0]) is not None and all(pauses):
            found[agent] = first
    return found
