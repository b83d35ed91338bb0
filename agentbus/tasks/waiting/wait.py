"""Waiting for tasks: follows the ledger until enough of them are settled, over broken connections and restarts."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeVar

from agentbus.bus.jetstream import Bus
from agentbus.errors import ApiError, BusUnavailableError, CorruptEntryError, SetupMissingError
from agentbus.observability import tracing
from agentbus.protocol.subjects import COORDINATOR
from agentbus.protocol.task_names import TaskQuery
from agentbus.tasks.find import Found, find_all
from agentbus.tasks.status import Waited
from agentbus.tasks.waiting.follow import follow, ledger_ends
from agentbus.tasks.waiting.listeners import Listeners
from agentbus.tasks.waiting.paused_agents import PausedAgents
from agentbus.tasks.waiting.watched_tasks import Until, WatchedTasks

_T = TypeVar("_T")

NO_LISTENERS: Final = Listeners()

_LAST_LOOK_S: Final = 3.0
"""How long the last read of the tasks may take when the time is over: callers wait for it beyond their time-out."""
_STARTING_S: Final = 30.0
"""How long after a reconnect a missing stream is taken for one that the server is still loading."""
_PAUSE_S: Final = 0.2
_EXPIRY_LOOK_S: Final = 120.0
"""How often a wait looks for tasks that can no longer run: that changes no ledger entry, so the consumer does not show
it. As often as a task can be settled as lost."""
_LAG_LOOK_S: Final = 5.0
"""How often a wait for several tasks in a cluster reads them again. A lagging replica may have answered the first read
without a change that happened before the consumer was made."""


async def wait_for(
    bus: Bus,
    found: Found,
    *,
    asker: str = COORDINATOR,
    until: Until = "all",
    timeout_s: float | None = None,
    listeners: Listeners = NO_LISTENERS,
    read_since: Mapping[str, int] | None = None,
) -> Waited:
    """Wait until all, or any, of the tasks in `found` are settled, or the time is over.

    Returns at once when nothing is left to wait for. A lost connection or a stopped server does not end the wait. If
    the bus is still away when the time is over, the answer has the states that were seen last. A time-out does nothing
    to the tasks.

    Args:
        asker: the coordinator that waits.
        read_since: the end of the ledger before `found` was read; without it, the tasks are read again.

    Raises:
        BusError: the connection has ended for good, or the ledger may not be read.
    """
    watched, on_paused = WatchedTasks(found, asker, until, listeners), listeners.on_paused
    if on_paused is None or watched.enough:
        return await _wait(bus, watched, timeout_s, read_since)
    pauses = PausedAgents(bus, watched.queued_for, on_paused)
    watching = asyncio.create_task(pauses.watch())
    try:
        waited = await _wait(bus, watched, timeout_s, read_since)
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    if waited.current and not watched.enough:
        await pauses.look_at_the_end()
    return replace(waited, paused={agent: pauses.found[agent] for agent in pauses.found.keys() & watched.queued_for()})


async def _wait(
    bus: Bus, watched: WatchedTasks, timeout_s: float | None, read_since: Mapping[str, int] | None
) -> Waited:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not watched.enough:
                try:
                    with suppress(TimeoutError):
                        lags = bus.clustered and len(watched.unsettled()) > 1
                        async with asyncio.timeout(_LAG_LOOK_S if lags else _EXPIRY_LOOK_S):
                            since, read_since = read_since, None  # the second time they are read again
                            await follow(bus, watched, since)
                except (BusUnavailableError, SetupMissingError, ApiError) as error:
                    if not isinstance(error, BusUnavailableError) and bus.seconds_since_reconnect > _STARTING_S:
                        raise
                    await asyncio.sleep(_PAUSE_S)
                    await bus.wait_connected()
            return watched.outcome(current=True)
    return watched.outcome(current=await _look_again(bus, watched))


async def wait_for_ids(
    bus: Bus,
    wanted: Iterable[TaskQuery],
    *,
    asker: str = COORDINATOR,
    until: Until = "all",
    timeout_s: float | None = None,
    listeners: Listeners = NO_LISTENERS,
) -> Waited:
    """Look up tasks, then wait as `wait_for` does; link the trace of the caller to the results.

    Args:
        asker: the coordinator that waits.

    Raises:
        TaskNotFoundError: the bus knows no task of one of the ids.
        CorruptEntryError: none of the tasks can be read.
        BusUnavailableError: the bus was away for all of `timeout_s`.
    """
    clock = asyncio.get_running_loop().time
    deadline = None if timeout_s is None else clock() + timeout_s
    queries = list(wanted)

    async def look_up() -> tuple[dict[str, int], Found, dict[TaskQuery, CorruptEntryError]]:
        return await ledger_ends(bus, [query.agent for query in queries]), *await find_all(bus, queries)

    read_since, found, unreadable = await repeat_while_away(bus, look_up, timeout_s)
    if unreadable and not found:
        raise next(iter(unreadable.values()))
    rest_s = None if deadline is None else max(0.0, deadline - clock())
    waited = await wait_for(
        bus,
        found,
        asker=asker,
        until=until,
        timeout_s=rest_s,
        listeners=listeners,
        read_since=read_since,
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


async def _look_again(bus: Bus, tasks: WatchedTasks) -> bool:
    """Read the tasks once more; return False if the bus does not answer."""
    try:
        async with asyncio.timeout(_LAST_LOOK_S):
            await tasks.read_again(bus)
            await tasks.look_after(bus, tasks.unsettled_records())
    except (TimeoutError, BusUnavailableError):
        return False
    return True
