"""The tasks that run, that ask and that were settled last, by one look at the last changes of the ledger."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.backwards import Read
from agentbus.bus.reading.ledger_reader import LedgerReader
from agentbus.protocol import subjects
from agentbus.protocol.headers import STATE, is_first
from agentbus.tasks.listing.task_list import read_listed
from agentbus.tasks.listing.wanted import Wanted
from agentbus.tasks.questions.question_list import says_that_it_asks
from agentbus.tasks.status import TaskStatus

_FIRST: Final = 250
_FIRST_OF_SEVERAL: Final = 50
_LEAST: Final = 125
"""A first window has room for four times as many: what asks is looked for among so many, where there is one ledger."""
_MOST: Final = 1_000
"""How many entries are looked at, about: running tasks are among them, for they renew their leases. A look that went on
where there are none would cost more, the more tasks there are."""
_MOST_QUEUED: Final = 100
"""How many queued tasks are passed over to find those that were settled: behind them may be any number of others."""
_AT_ONCE: Final = _MOST_QUEUED // 2


@dataclass(frozen=True, slots=True)
class LastChanges:
    """What a look at the last changes has found, the last changed first.

    Attributes:
        running: the tasks that workers have claimed.
        settled: those that are settled.
        asking: those with a question of a run that was interrupted, or of one that is not among `running`.
        to_the_end: whether every entry was looked at.
    """

    running: list[TaskStatus] = field(default_factory=list[TaskStatus])
    settled: list[TaskStatus] = field(default_factory=list[TaskStatus])
    asking: list[TaskStatus] = field(default_factory=list[TaskStatus])
    to_the_end: bool = False


@dataclass(slots=True)
class _Look:
    """What was found so far, of what is wanted.

    Attributes:
        in_work: how many tasks of an agent may run, less those that were found.
        all_known: whether no other agent has any.
    """

    bus: Bus
    wanted: Wanted
    most_running: int
    most_settled: int
    running: list[TaskStatus] = field(default_factory=list[TaskStatus])
    settled: list[TaskStatus] = field(default_factory=list[TaskStatus])
    asking: list[TaskStatus] = field(default_factory=list[TaskStatus])
    queued: int = 0
    in_work: dict[str, int] = field(default_factory=dict[str, int])
    all_known: bool = False

    @property
    def has_settled(self) -> bool:
        """Whether there are as many settled ones as are wanted, or no more are looked for."""
        return len(self.settled) >= self.most_settled or self.queued > _MOST_QUEUED

    @property
    def has_running(self) -> bool:
        none_left = self.all_known and all(left <= 0 for left in self.in_work.values())
        return len(self.running) >= self.most_running or none_left

    @property
    def complete(self) -> bool:
        return self.has_settled and self.has_running

    def expect(self, in_work: Mapping[str, int | None]) -> None:
        """Note how many tasks of each agent may run, as far as that is known."""
        self.in_work = {agent: count for agent, count in in_work.items() if count is not None}
        self.all_known = 0 < len(in_work) == len(self.in_work)

    @property
    def expected(self) -> int | None:
        """How many entries are wanted at most, if that is known: those that may run, and those that are settled."""
        return self.most_settled + sum(self.in_work.values()) + 1 if self.all_known else None

    def done_with(self, entries: Sequence[Read]) -> list[str]:
        """Return the agents of which nothing more is wanted after these, which run: all that may run was found."""
        for entry in entries:
            task = subjects.parse_state(entry.subject)
            if task is not None and task.agent in self.in_work:
                self.in_work[task.agent] -= 1
        return [agent for agent, left in self.in_work.items() if left <= 0] if self.has_settled else []

    async def take(self, entries: Sequence[Read], most_asking: int) -> list[str]:
        """Take what is wanted of some entries; returns the same as `done_with`."""
        states = [(one, one.headers.get(STATE)) for one in entries]
        working = [one for one, state in states if state == "working"]
        await self.add_running(working)
        await self.add_settled([one for one, state in states if state != "working"])
        if most_asking:
            await self.add_asking([one for one, state in states if state in ("queued", "working")], most_asking)
        return self.done_with(working)

    async def add_running(self, entries: Sequence[Read]) -> None:
        found = await self._read(entries[: self.most_running - len(self.running)])
        self.running += [one for one in found if one.state == "working"]

    async def add_settled(self, entries: Sequence[Read]) -> None:
        for first in range(0, len(entries), _AT_ONCE):
            batch = entries[first : first + _AT_ONCE]
            self.queued += sum(one.headers.get(STATE) in (None, "queued") for one in batch)
            if self.has_settled:
                return
            self.settled += [one for one in await self._read([*filter(_may_be_settled, batch)]) if one.settled]

    async def add_asking(self, entries: Sequence[Read], most: int) -> None:
        known = {one.record.key for one in self.running}
        may_ask = [
            one for one in entries if says_that_it_asks(one.headers) and subjects.parse_state(one.subject) not in known
        ]
        self.asking += [one for one in await self._read(may_ask[: most - len(self.asking)]) if one.asks]

    async def _read(self, entries: Sequence[Read]) -> list[TaskStatus]:
        """Read the entries that can be read."""
        found = await read_listed(self.bus, entries, self.wanted)
        return [one for one in found if isinstance(one, TaskStatus)]


def _may_be_settled(entry: Read) -> bool:
    """Whether an entry may be that of a settled task: a queued one that was changed may have been cancelled."""
    return entry.headers.get(STATE) != "queued" or not is_first(entry.headers)


async def last_changes(
    reader: LedgerReader,
    bus: Bus,
    wanted: Wanted,
    *,
    running: int,
    settled: int,
    asking: int = 0,
    in_work: Mapping[str, int | None] | None = None,
) -> LastChanges:
    """Return the newest running, the newest settled and the newest asking tasks among the last changes.

    Args:
        reader: of the entries that `wanted` covers.
        running: how many running ones, at most.
        settled: how many settled ones, at most.
        asking: how many asking ones that do not run, at most; nothing more is looked at for them.
        in_work: how many tasks of each agent workers were given and have not settled, as far as that is known: no more
            of them run, and none of agents that are not named. What is left is read for what was settled last only.

    Raises:
        SetupMissingError: there is no ledger on this bus.
        PermissionDeniedError: this user may not read it.
    """
    look, examined, whole = _Look(bus, wanted, running, settled), 0, False
    look.expect(in_work or {})
    let_go = False
    # Of several streams, many are read for the few entries of each that are wanted.
    one_of_all = (min(_FIRST, max(look.expected or _FIRST, _LEAST)), _MOST)
    first, most = (min(_FIRST, settled + 1), _FIRST_OF_SEVERAL) if reader.divided else one_of_all
    async with aclosing(reader.windows(keep=wanted.may_be, count=first, most=most)) as windows:
        async for window in windows:
            examined, whole = examined + len(window.messages), window.last and not let_go
            for agent in await look.take(window.messages, asking):
                reader.let_go(agent)
                let_go = True
            if look.complete or examined >= _MOST:
                break
    return LastChanges(look.running, look.settled[:settled], look.asking, whole)
