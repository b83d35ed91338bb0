"""Follows the entries of tasks in the ledger: those alone where the user may name them, else all of theirs.

Where each agent has a stream, that of each agent is followed by consumers of its own.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ledger_parts import agent_ledgers, is_divided, name_of
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.lost.lost_tasks import to_look_after
from agentbus.tasks.waiting.shared_consumers import are_many, followed
from agentbus.tasks.waiting.watched_tasks import WatchedTasks

_MOST_KEYS: Final = 2_000
"""How many tasks are followed by their keys."""
_ASKED_FOR: Final = 16
"""The ledgers of how many agents are asked for their ends; of more, all are listed, up to 256 with one request."""
_MARKED_FROM: Final = 2
"""From how many tasks on a look at the ledger's end costs less than to read them again."""


async def ledger_ends(bus: Bus, agents: Sequence[str | None]) -> dict[str, int]:
    """Return the newest sequence of the ledger by its stream, so that what is read from now on is not read twice.

    Without it, tasks are read again once their consumer exists: so where reading again costs no more, where this user
    may not look at the stream, and in a cluster, where a replica may answer the first read with less than that.

    Args:
        agents: of each task; None where it is not known.

    Raises:
        BusError: the bus cannot be asked.
    """
    if len(agents) < _MARKED_FROM or bus.clustered or not bus.reads_whole_ledger:
        return {}
    try:
        if await is_divided(bus):
            return await _ends_of(bus, set(agents))
        ledger = await bus.stream_info(subjects.STATE_STREAM)
    except PermissionDeniedError:
        bus.reads_whole_ledger = False  # a bus of an older layout, which refuses both
        return {}
    return {subjects.STATE_STREAM: ledger.state.last_seq}


async def _ends_of(bus: Bus, agents: set[str | None]) -> dict[str, int]:
    """Return the newest sequences of the ledgers of these agents, each asked for, or all listed."""
    if len(agents) > _ASKED_FOR or None in agents:
        return {name_of(info): info.state.last_seq for info in await agent_ledgers(bus) or ()}

    async def end_of(stream: str) -> tuple[str, int] | None:
        try:
            return stream, (await bus.stream_info(stream)).state.last_seq
        except (PermissionDeniedError, SetupMissingError):
            return None  # an agent that is gone: its tasks are read again

    ends = await asyncio.gather(*(end_of(ledger_of(agent)) for agent in agents if agent is not None))
    return dict(filter(None, ends))


async def follow(bus: Bus, tasks: WatchedTasks, read_since: Mapping[str, int] | None = None) -> None:
    """Follow the ledger and update `tasks` until they are enough.

    Of the tasks whose entry has not changed for some time, those that can no longer run are settled meanwhile.

    Args:
        read_since: the end that the ledger had before the tasks were read: `ledger_ends`.

    Raises:
        BusError: the ledger cannot be followed.
    """
    of_several = bus.reads_whole_ledger
    try:
        await _Following(bus, tasks, read_since or {}).until_over()
    except PermissionDeniedError:
        if not of_several or bus.reads_whole_ledger:
            raise
        # Consumers of several keys were refused, of which this wait may have asked for one.
        await _Following(bus, tasks, read_since or {}).until_over()


class _Following:
    """Follows the ledger in each of its streams, until the tasks are enough."""

    def __init__(self, bus: Bus, tasks: WatchedTasks, read_since: Mapping[str, int]) -> None:
        self._bus = bus
        self._tasks = tasks
        self._read_since = read_since
        self._over = asyncio.Event()
        self._opened: asyncio.Future[datetime | None] = asyncio.get_running_loop().create_future()

    async def until_over(self) -> None:
        keys = self._tasks.unsettled()
        by_keys = len(keys) == 1 or (self._bus.reads_whole_ledger and len(keys) <= _MOST_KEYS)
        parts = [self._part(stream, same, by_keys=by_keys) for stream, same in await self._by_stream(keys)]
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(part) for part in parts]
                await self._look_after(await self._opened)
                await self._over.wait()
                for part in running:
                    part.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _by_stream(self, keys: Sequence[TaskKey]) -> list[tuple[str, list[TaskKey]]]:
        """Return the tasks of each stream."""
        if not await is_divided(self._bus):
            return [(subjects.STATE_STREAM, list(keys))]
        of_agents: dict[str, list[TaskKey]] = {}
        for key in keys:
            of_agents.setdefault(key.agent, []).append(key)
        return [(ledger_of(agent), same) for agent, same in of_agents.items()]

    async def _look_after(self, now: datetime | None) -> None:
        """Look whether tasks can no longer run. An entry that has just changed is that of one that can."""
        old = to_look_after(self._tasks.unsettled_records(), now)
        if old:
            await self._tasks.look_after(self._bus, old)
            self._note()

    async def _part(self, stream: str, keys: Sequence[TaskKey], *, by_keys: bool) -> None:
        """Follow these entries alone, which are delivered whole, or all of their agents and owners."""
        wide = None if by_keys and not self._has_too_many(stream) else _all_with(keys)
        mark = self._read_since.get(stream)
        left = {subjects.state(key): key for key in keys}
        async with followed(self._bus, stream, tuple(left), mark=mark, wide=wide) as follower:
            self._note_opened(await follower.opened)
            while left:
                news = await follower.news()
                if news.read_again:
                    await self._tasks.read_again(self._bus, [left[one] for one in news.read_again if one in left])
                await self._take(news.changes, whole=wide is None)
                for subject in (*news.read_again, *(change.subject for change in news.changes)):
                    if subject in left and self._tasks.is_settled(left[subject]):
                        del left[subject]
                self._note()

    async def _take(self, changes: Sequence[Delivery], *, whole: bool) -> None:
        if whole:
            for change in changes:
                self._tasks.take(change.stored)
            return
        await self._tasks.take_changes(self._bus, [(one.subject, one.headers, one.stream_seq) for one in changes])
        if self._tasks.enough:
            await self._tasks.read_unread(self._bus)

    def _has_too_many(self, stream: str) -> bool:
        return not self._bus.reads_whole_ledger and are_many(self._bus, stream)

    def _note_opened(self, server_time: datetime | None) -> None:
        if not self._opened.done():
            self._opened.set_result(server_time)

    def _note(self) -> None:
        if self._tasks.enough:
            self._over.set()


def _all_with(keys: Sequence[TaskKey]) -> str:
    """Return the filter of all entries of the agent, of the owner, or of all, that these tasks are of."""
    agents, owners = {key.agent for key in keys}, {key.owner for key in keys}
    return subjects.states(agents.pop() if len(agents) == 1 else "*", owners.pop() if len(owners) == 1 else None)
