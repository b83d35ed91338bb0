"""Follows the entries of tasks in the ledger: those alone where the user may name them, else all of theirs.

Where each agent has a stream, that of each agent is followed by consumers of its own.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer, Start
from agentbus.bus.reading.ledger_parts import agent_ledgers, is_divided, name_of, part_of
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.lost.lost_tasks import to_look_after
from agentbus.tasks.waiting.watched_tasks import WatchedTasks

_KEYS_AT_ONCE: Final = 200
"""How many keys one consumer has. Making one takes 0.04 ms of each key with 200, and 0.09 ms with 1000."""
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
    keys = tasks.unsettled()
    if len(keys) == 1 or (bus.reads_whole_ledger and len(keys) <= _MOST_KEYS):
        try:
            await _Following(bus, tasks, read_since or {}).of_keys(keys)
        except PermissionDeniedError:
            if len(keys) == 1 or not bus.reads_whole_ledger:
                raise
            bus.reads_whole_ledger = False
        else:
            return
    await _Following(bus, tasks, read_since or {}).of_all(keys)


class _Following:
    """Consumers that follow the ledger together, until the tasks are enough."""

    def __init__(self, bus: Bus, tasks: WatchedTasks, read_since: Mapping[str, int]) -> None:
        self._bus = bus
        self._tasks = tasks
        self._read_since = read_since
        self._over = asyncio.Event()
        self._opened: asyncio.Future[datetime | None] = asyncio.get_running_loop().create_future()

    async def of_keys(self, keys: Sequence[TaskKey]) -> None:
        """Follow these entries alone, which are delivered whole."""
        parts = [
            same[at : at + _KEYS_AT_ONCE]
            for same in await self._by_stream(keys)
            for at in range(0, len(same), _KEYS_AT_ONCE)
        ]
        await self._until_over(*(self._part(part) for part in parts))

    async def of_all(self, keys: Sequence[TaskKey]) -> None:
        """Follow all entries of the agent, of the owner, or of all, and read those of the tasks that change."""
        await self._until_over(*(self._whole(same) for same in await self._by_stream(keys)))

    async def _by_stream(self, keys: Sequence[TaskKey]) -> list[list[TaskKey]]:
        """Return the tasks of each stream."""
        if not await is_divided(self._bus):
            return [list(keys)]
        of_agents: dict[str, list[TaskKey]] = {}
        for key in keys:
            of_agents.setdefault(key.agent, []).append(key)
        return list(of_agents.values())

    async def _until_over(self, *parts: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(part) for part in parts]
                await self._look_after(await self._opened)
                await self._over.wait()
                for part in running:
                    part.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _look_after(self, now: datetime | None) -> None:
        """Look whether tasks can no longer run. An entry that has just changed is that of one that can."""
        old = to_look_after(self._tasks.unsettled_records(), now)
        if old:
            await self._tasks.look_after(self._bus, old)
            self._note()

    async def _part(self, keys: Sequence[TaskKey]) -> None:
        wanted = [subjects.state(key) for key in keys]
        alone = wanted[0] if len(wanted) == 1 else None  # the right to follow one key, every user has
        stream = (await part_of(self._bus, wanted[0])).stream
        # To begin with the newest entry of several keys, the server would look at all of the ledger.
        after: Start = "last_per_subject" if alone is not None else self._read_since.get(stream, "new")
        async with OrderedConsumer(self._bus, stream, alone or wanted, after=after) as consumer:
            self._note_opened(consumer)
            if after == "new":
                await self._read_again(keys)
            left = {key for key in keys if not self._tasks.is_settled(key)}
            while left:
                for change in await consumer.next_several():
                    self._tasks.take(change.stored)
                left = {key for key in left if not self._tasks.is_settled(key)}
                self._note()

    async def _read_again(self, keys: Sequence[TaskKey]) -> None:
        """Read entries again now that the consumer exists, so that no change falls between the two."""
        await self._tasks.read_again(self._bus, keys)
        self._note()

    async def _whole(self, keys: Sequence[TaskKey]) -> None:
        agents, owners = {key.agent for key in keys}, {key.owner for key in keys}
        wanted = subjects.states(agents.pop() if len(agents) == 1 else "*", owners.pop() if len(owners) == 1 else None)
        stream = (await part_of(self._bus, subjects.state(keys[0]))).stream
        after: Start = self._read_since.get(stream, "new")
        async with OrderedConsumer(self._bus, stream, wanted, after=after, headers_only=True) as consumer:
            self._note_opened(consumer)
            if after == "new":
                await self._read_again(keys)
            while not self._tasks.enough:
                changes = await consumer.next_several()
                await self._tasks.take_changes(
                    self._bus, [(one.subject, one.headers, one.stream_seq) for one in changes]
                )
            await self._tasks.read_unread(self._bus)
            self._note()

    def _note_opened(self, consumer: OrderedConsumer) -> None:
        if not self._opened.done():
            self._opened.set_result(consumer.server_time)

    def _note(self) -> None:
        if self._tasks.enough:
            self._over.set()
