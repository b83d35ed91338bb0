"""The tasks that run and those that were settled last, by one look at the last changes of the ledger."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.backwards import Read
from agentbus.bus.reading.ledger_reader import LedgerReader
from agentbus.protocol import subjects
from agentbus.protocol.headers import STATE
from agentbus.protocol.ledger_entry import TERMINAL
from agentbus.tasks.listing.task_list import Wanted, read_listed
from agentbus.tasks.status import TaskStatus

_FIRST: Final = 250
_FIRST_OF_SEVERAL: Final = 50
_MOST: Final = 1_000
"""How many entries are looked at, about: running tasks are among them, for they renew their leases. A look that went on
where there are none would cost more, the more tasks there are."""
_MOST_UNSURE: Final = 100
"""How many queued tasks are read to find those that were cancelled before they started."""
_AT_ONCE: Final = 16


@dataclass(slots=True)
class _Look:
    """What was found so far, of what is wanted.

    Attributes:
        open: how many tasks of an agent may not be settled, less those that were found.
    """

    bus: Bus
    wanted: Wanted
    most_running: int
    most_settled: int
    running: list[TaskStatus] = field(default_factory=list[TaskStatus])
    settled: list[TaskStatus] = field(default_factory=list[TaskStatus])
    unsure: int = 0
    open: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def complete(self) -> bool:
        return len(self.running) >= self.most_running and len(self.settled) >= self.most_settled

    def done_with(self, entries: Sequence[Read]) -> list[str]:
        """Return the agents of which nothing more is wanted after these entries: all their open tasks were found."""
        for entry in entries:
            task = subjects.parse_state(entry.subject)
            if task is not None and task.agent in self.open and entry.headers.get(STATE) not in TERMINAL:
                self.open[task.agent] -= 1
        if len(self.settled) < self.most_settled:
            return []
        return [agent for agent, left in self.open.items() if left <= 0]

    async def add_running(self, entries: Sequence[Read]) -> None:
        found = await self._read(entries[: self.most_running - len(self.running)])
        self.running += [one for one in found if one.state == "working"]

    async def add_settled(self, entries: Sequence[Read]) -> None:
        for first in range(0, len(entries), _AT_ONCE):
            batch = entries[first : first + _AT_ONCE]
            self.unsure += sum(one.headers.get(STATE) in (None, "queued") for one in batch)
            if len(self.settled) >= self.most_settled or self.unsure > _MOST_UNSURE:
                return
            self.settled += [one for one in await self._read(batch) if one.settled]

    async def _read(self, entries: Sequence[Read]) -> list[TaskStatus]:
        """Read the entries that can be read."""
        found = await read_listed(self.bus, entries, self.wanted)
        return [one for one in found if isinstance(one, TaskStatus)]


async def last_changes(
    reader: LedgerReader,
    bus: Bus,
    wanted: Wanted,
    *,
    running: int,
    settled: int,
    open_tasks: Mapping[str, int | None] | None = None,
) -> tuple[list[TaskStatus], list[TaskStatus]]:
    """Return the newest running and the newest settled tasks among the last changes.

    Args:
        reader: of the entries that `wanted` covers.
        running: how many running ones, at most.
        settled: how many settled ones, at most.
        open_tasks: how many tasks the queue holds of each agent, as far as that is known: no more of them run. Where
            each agent has a ledger, those of agents without any are read for what was settled last only.

    Raises:
        SetupMissingError: there is no ledger on this bus.
        PermissionDeniedError: this user may not read it.
    """
    look, examined = _Look(bus, wanted, running, settled, open=_known(open_tasks or {})), 0
    # Of several streams, many are read for the few entries of each that are wanted.
    first, most = (min(_FIRST, settled + 1), _FIRST_OF_SEVERAL) if reader.divided else (_FIRST, _MOST)
    async with aclosing(reader.windows(keep=wanted.may_be, count=first, most=most)) as windows:
        async for window in windows:
            examined += len(window.messages)
            await look.add_running([one for one in window.messages if one.headers.get(STATE) == "working"])
            await look.add_settled([one for one in window.messages if one.headers.get(STATE) != "working"])
            for agent in look.done_with(window.messages):
                reader.let_go(agent)
            if look.complete or examined >= _MOST:
                break
    return look.running, look.settled[:settled]


def _known(counts: Mapping[str, int | None]) -> dict[str, float]:
    return {agent: float(count) for agent, count in counts.items() if count is not None}
