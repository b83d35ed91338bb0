"""Which streams hold what a reader wants of the ledger: one of all or, where it is divided, those of the parties.

A connection remembers that the ledger is divided, and for a second that it is not: an upgrade divides it.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.bus.wanted.ledgers import Ledgers
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of, narrowed, party_in, party_of_stream
from agentbus.protocol.refusals import missing
from agentbus.shared_work import SharedWork

_UNDIVIDED_FOR_S: Final = 1.0
_NOT_TOLD_FOR_S: Final = 60.0
"""How long a user who may not ask is one of a bus with one ledger: the right comes with a restart of the server."""
_LISTED_FOR_S: Final = 10.0
"""How long look-ups go by the agents that were listed last."""
_HIDDEN_FOR_S: Final = 60.0
"""How long what may not be read is not asked for again: an operator may grant it meanwhile."""


class Part(NamedTuple):
    """A stream of the ledger, and the filter that it takes for what is wanted.

    Attributes:
        info: its configuration and state, if they were asked for to find it.
    """

    stream: str
    subject: str
    info: StreamInfo | None = None


def ends_of(part: Part) -> tuple[int, int] | None:
    """Return the sequences of the first and of the newest message of its stream, if its state was read."""
    return (max(1, part.info.state.first_seq), part.info.state.last_seq) if part.info is not None else None


@dataclass(slots=True)
class _Known:
    """What a connection knows of the ledger.

    Attributes:
        divided: whether each party has a ledger; None if that is not known.
        until: how long that holds, by the clock of the event loop, if the connection is not made anew.
        at: when it was learned.
        hidden: the streams that this user may not read, and when that was learned: the server logs each refusal.
        agents: the agents that have a ledger, as they were listed last.
        listed_at: when that was.
        none_at_all: whether the server had no stream of the ledger when it was asked last.
        readings: of the streams that take a subject, shared by those who ask in the same moment.
    """

    divided: bool | None = None
    at: float = 0.0
    until: float = 0.0
    hidden: dict[str, float] = field(default_factory=dict[str, float])
    agents: tuple[str, ...] = ()
    listed_at: float = -math.inf
    none_at_all: bool = False
    readings: SharedWork[list[StreamInfo]] = field(default_factory=SharedWork[list[StreamInfo]])

    def is_undivided(self, bus: Bus) -> bool:
        """Whether there was one ledger a moment ago, and no reconnect since."""
        now = asyncio.get_running_loop().time()
        return self.divided is False and now < self.until and now - self.at < bus.seconds_since_reconnect

    def learn(self, *, divided: bool, now: float, for_s: float) -> None:
        self.divided, self.at, self.until = divided, now, now + for_s


_known: WeakKeyDictionary[Bus, _Known] = WeakKeyDictionary()


def _known_of(bus: Bus) -> _Known:
    return _known.setdefault(bus, _Known())


def name_of(info: StreamInfo) -> str:
    """The name of a stream."""
    return str(info.config.get("name"))


def agent_of_ledger(info: StreamInfo) -> str | None:
    """The agent whose ledger a stream is; None for other streams, also for the ledger of a coordinator."""
    party = party_of_stream(name_of(info))
    return party if party is not None and info.config.get("subjects") == [subjects.states(party)] else None


async def agent_ledgers(bus: Bus) -> list[StreamInfo] | None:
    """Read the states of the ledgers of all agents; None if there is one ledger of all.

    Raises:
        BusUnavailableError: the bus did not answer.
    """
    known = _known_of(bus)
    if known.is_undivided(bus):
        return None
    # With a hundred agents the answer has 85 kB, and reading it costs the client as much as a page of a list.
    found = await known.readings.do(subjects.STATE_SUBJECTS, lambda: _read(bus, known, subjects.STATE_SUBJECTS))
    if not known.divided:
        return None
    ledgers = [info for info in found if agent_of_ledger(info) is not None]
    known.agents = tuple(filter(None, map(agent_of_ledger, ledgers)))
    known.listed_at = asyncio.get_running_loop().time()
    return ledgers


async def _read(bus: Bus, known: _Known, subject: str) -> list[StreamInfo]:
    """Read the streams of the ledger that take a subject, and learn from them whether it is divided."""
    now = asyncio.get_running_loop().time()
    try:
        found = await bus.streams_of(subject)
    except PermissionDeniedError:  # as on a bus of an older layout
        known.learn(divided=False, now=now, for_s=_NOT_TOLD_FOR_S)
        return []
    if found or subject == subjects.STATE_SUBJECTS:
        known.learn(divided=_is_divided(found), now=now, for_s=_UNDIVIDED_FOR_S)
        known.none_at_all = not found
    return found


async def ledgers_with(bus: Bus, agents: Sequence[str] = (), coordinators: Sequence[str] = ()) -> Ledgers | None:
    """Return the parties that have a ledger of their own, and these beside them; None where there is one of all."""
    if not bus.attests_writers:
        return None
    existing = await bus.streams_of(subjects.STATE_SUBJECTS)
    if any(name_of(info) == subjects.STATE_STREAM for info in existing):
        return None
    of_agents = sorted(filter(None, map(agent_of_ledger, existing)))
    others = sorted(party_of_stream(name_of(info)) or "" for info in existing if agent_of_ledger(info) is None)
    all_agents = tuple(dict.fromkeys((*of_agents, *agents)))
    # Who was a coordinator and is an agent by now has the ledger of an agent, which takes all that the other one did.
    all_others = tuple(
        one for one in dict.fromkeys((subjects.COORDINATOR, *others, *coordinators)) if one not in agents
    )
    return Ledgers(all_agents, all_others, more=len(all_agents) + len(all_others) > len(existing))


async def is_divided(bus: Bus) -> bool:
    """Whether each party has a ledger of its own."""
    known = _known_of(bus)
    if known.divided or known.is_undivided(bus):
        return known.divided is True
    # The main coordinator has a ledger wherever agents have. So one stream answers, and not that of each agent.
    wanted = subjects.mcp_tasks(subjects.COORDINATOR)
    if found := await known.readings.do(wanted, lambda: _read(bus, known, wanted)):
        return _is_divided(found)
    return await agent_ledgers(bus) is not None


def _is_divided(found: Sequence[StreamInfo]) -> bool:
    return any(party_of_stream(name_of(info)) is not None for info in found)


async def ledger_parts(bus: Bus, subject: str) -> list[Part]:
    """Return the streams with what a filter means of the ledger, without those that this user may not read.

    Args:
        subject: a subject of the ledger, which may hold wildcards.

    Raises:
        SetupMissingError: there is no ledger. Where parties have ledgers, no one may read the one of all, so that a
            list would end with a refusal, and nothing would say why.
    """
    party = party_in(subject)
    if party is not None:
        return [await part_of(bus, subject)]
    ledgers = await agent_ledgers(bus)
    if ledgers is None and _known_of(bus).none_at_all:
        raise missing(f"the stream {subjects.STATE_STREAM}")
    return parts_in(bus, ledgers, subject)


async def has_ledger(bus: Bus) -> bool:
    """Whether there is a ledger, of all or of each party, as far as this user may see it."""
    await agent_ledgers(bus)
    return not _known_of(bus).none_at_all


def parts_in(
    bus: Bus, ledgers: Sequence[StreamInfo] | None, subject: str, *, whole: StreamInfo | None = None
) -> list[Part]:
    """Return the same of what `agent_ledgers` has read, for a filter that means those of all agents.

    Args:
        whole: where there is one ledger of all, its state, if that was read.
    """
    if ledgers is None:
        return [Part(subjects.STATE_STREAM, subject, whole)]
    parties = [(party, info) for info in ledgers if (party := agent_of_ledger(info)) is not None]
    return _not_hidden(bus, [Part(ledger_of(party), narrowed(subject, party), info) for party, info in parties])


def remembered_parts(bus: Bus, subject: str) -> list[Part]:
    """Return the same for all agents from memory, without states: those of the last seconds; nothing if there is none.

    So many look-ups need no list each. One that finds nothing asks again: a new agent has a ledger that is not known.
    """
    known = _known_of(bus)
    if party_in(subject) is not None or asyncio.get_running_loop().time() - known.listed_at > _LISTED_FOR_S:
        return []
    return _not_hidden(bus, [Part(ledger_of(party), narrowed(subject, party)) for party in known.agents])


def _not_hidden(bus: Bus, parts: list[Part]) -> list[Part]:
    """Leave out what this user may not read. Where that is all, the refusal is the answer."""
    hidden, now = _known_of(bus).hidden, asyncio.get_running_loop().time()
    return [part for part in parts if now - hidden.get(part.stream, -math.inf) > _HIDDEN_FOR_S] or parts


async def part_of(bus: Bus, subject: str) -> Part:
    """Return the stream with the keys of the one party that a subject names."""
    party = party_in(subject)
    assert party is not None, "the subject names a party"
    return Part(ledger_of(party) if await is_divided(bus) else subjects.STATE_STREAM, subject)


def hide(bus: Bus, part: Part) -> bool:
    """Remember that this user may not read one of several parts; returns whether it is one of several."""
    if party_of_stream(part.stream) is None:
        return False
    _known_of(bus).hidden[part.stream] = asyncio.get_running_loop().time()
    return True
