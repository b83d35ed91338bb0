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

_UNDIVIDED_FOR_S: Final = 1.0
_NOT_TOLD_FOR_S: Final = 60.0
"""How long a user who may not ask is one of a bus with one ledger: the right comes with a restart of the server."""
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


@dataclass(slots=True)
class _Known:
    """What a connection knows of the ledger.

    Attributes:
        divided: whether each party has a ledger; None if that is not known.
        until: how long that holds, by the clock of the event loop, if the connection is not made anew.
        at: when it was learned.
        hidden: the streams that this user may not read, and when that was learned: the server logs each refusal.
    """

    divided: bool | None = None
    at: float = 0.0
    until: float = 0.0
    hidden: dict[str, float] = field(default_factory=dict[str, float])

    def learn(self, *, divided: bool, now: float, for_s: float) -> None:
        self.divided, self.at, self.until = divided, now, now + for_s


_known: WeakKeyDictionary[Bus, _Known] = WeakKeyDictionary()


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
    known = _known.setdefault(bus, _Known())
    clock = asyncio.get_running_loop().time
    if known.divided is False and clock() < known.until and clock() - known.at < bus.seconds_since_reconnect:
        return None
    try:
        found = await bus.streams_of(subjects.STATE_SUBJECTS)
    except PermissionDeniedError:  # as on a bus of an older layout
        known.learn(divided=False, now=clock(), for_s=_NOT_TOLD_FOR_S)
        return None
    divided = any(party_of_stream(name_of(info)) is not None for info in found)
    known.learn(divided=divided, now=clock(), for_s=_UNDIVIDED_FOR_S)
    return [info for info in found if agent_of_ledger(info) is not None] if divided else None


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
    known = _known.setdefault(bus, _Known())
    return known.divided is True or await agent_ledgers(bus) is not None


async def ledger_parts(bus: Bus, subject: str) -> list[Part]:
    """Return the streams with what a filter means of the ledger, without those that this user may not read.

    Args:
        subject: a subject of the ledger, which may hold wildcards.
    """
    party = party_in(subject)
    if party is not None:
        return [await part_of(bus, subject)]
    ledgers = await agent_ledgers(bus)
    if ledgers is None:
        return [Part(subjects.STATE_STREAM, subject)]
    hidden, now = _known.setdefault(bus, _Known()).hidden, asyncio.get_running_loop().time()
    parties = [(party, info) for info in ledgers if (party := agent_of_ledger(info)) is not None]
    parts = [Part(ledger_of(party), narrowed(subject, party), info) for party, info in parties]
    # Where all are hidden, the refusal is the answer.
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
    _known.setdefault(bus, _Known()).hidden[part.stream] = asyncio.get_running_loop().time()
    return True
