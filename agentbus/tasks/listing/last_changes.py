"""The tasks that run and those that were settled last, by one look at the last changes of the ledger."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ledger_reader import LedgerReader
from agentbus.protocol.headers import STATE
from agentbus.tasks.listing.task_list import Wanted, read_listed
from agentbus.tasks.status import TaskStatus

_FIRST: Final = 250
_MOST: Final = 1_000
"""How many entries are looked at, about: running tasks are among them, for they renew their leases. A look that went on
where there are none would cost more, the more tasks there are."""
_MOST_UNSURE: Final = 100
"""How many queued tasks are read to find those that were cancelled before they started."""
_AT_ONCE: Final = 16


@dataclass(slots=True)
class _Look:
    """What was found so far, of what is wanted."""

    bus: Bus
    wanted: Wanted
    most_running: int
    most_settled: int
    running: list[TaskStatus] = field(default_factory=list[TaskStatus])
    settled: list[TaskStatus] = field(default_factory=list[TaskStatus])
    unsure: int = 0

    @property
    def complete(self) -> bool:
        return len(self.running) >= self.most_running and len(self.settled) >= self.most_settled

    async def add_running(self, entries: Sequence[Delivery]) -> None:
        found = await self._read(entries[: self.most_running - len(self.running)])
        self.running += [one for one in found if one.state == "working"]

    async def add_settled(self, entries: Sequence[Delivery]) -> None:
        for first in range(0, len(entries), _AT_ONCE):
            batch = entries[first : first + _AT_ONCE]
            self.unsure += sum(one.headers.get(STATE) in (None, "queued") for one in batch)
            if len(self.settled) >= self.most_settled or self.unsure > _MOST_UNSURE:
                return
            self.settled += [one for one in await self._read(batch) if one.settled]

    async def _read(self, entries: Sequence[Delivery]) -> list[TaskStatus]:
        """Read the entries that can be read."""
        found = await read_listed(self.bus, entries, self.wanted)
        return [one for one in found if isinstance(one, TaskStatus)]


async def last_changes(
    bus: Bus, *, owner: str | None, asker: str, running: int, settled: int
) -> tuple[list[TaskStatus], list[TaskStatus]]:
    """Return the newest running and the newest settled tasks among the last changes, without results.

    Args:
        owner: only tasks of this owner.
        asker: the coordinator that looks.
        running: how many running ones, at most.
        settled: how many settled ones, at most.

    Raises:
        SetupMissingError: there is no ledger on this bus.
        PermissionDeniedError: this user may not read it.
    """
    wanted = Wanted(owner=owner, asker=asker, with_results=False)
    look, examined = _Look(bus, wanted, running, settled), 0
    reader = await LedgerReader.of(bus, wanted.subject)
    async with aclosing(reader.windows(keep=wanted.may_be, count=_FIRST)) as windows:
        async for window in windows:
            examined += len(window.messages)
            await look.add_running([one for one in window.messages if one.headers.get(STATE) == "working"])
            await look.add_settled([one for one in window.messages if one.headers.get(STATE) != "working"])
            if look.complete or examined >= _MOST:
                break
    return look.running, look.settled[:settled]
