"""Decides where a task that goes on with a conversation runs, in a pure function of what was looked up for it.

A worker of another place never claims it: it hands the delivery back, for as long as the place is alive.
"""

import random
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentbus.protocol.conversations.continuation import Continuation, session_in
from agentbus.protocol.conversations.places import has_moved
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus.protocol.subjects import COORDINATOR, TaskKey

_QUICK_DELIVERIES: Final = 8
"""So often a delivery goes on to the next worker at once: of a few idle ones, the right one gets it by then."""
_QUICK_S: Final = (0.05, 0.2)
_APART_S: Final = (1.0, 5.0)
"""How long it is kept from all workers after that. A time that grows would miss a place that has a free slot for
moments only, again and again."""


@dataclass(frozen=True, slots=True)
class Here:
    """The session is in this place."""

    session: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The session is in another place: hand the delivery back while that is alive, and wait for it else.

    `moved`: it was in this place, where the agent's home is another one by now, so there is nothing to wait for.
    """

    place: str
    moved: bool = False


@dataclass(frozen=True, slots=True)
class NotYet:
    """The earlier task has no result, so it is not known where its session will be."""


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no session to go on with, for good; `why` ends a sentence that begins with the earlier task."""

    why: str
    code: FailureCode = "session_gone"


Whereabouts: TypeAlias = Here | Elsewhere | NotYet | Gone


def whereabouts(wanted: Continuation, owner: str, here: str, earlier: Record | NoEntry | None) -> Whereabouts:
    """Decide where the session of a task is.

    Args:
        wanted: what the task says of it.
        owner: the coordinator that published the task.
        here: this place.
        earlier: the ledger entry of the task whose conversation goes on; None where `wanted` has session and place.
    """
    if owner not in (COORDINATOR, wanted.owner):
        return Gone(f"belongs to {wanted.owner}; only its owner and {COORDINATOR} may go on with it", "rejected")
    session, place = wanted.session, wanted.place
    if earlier is not None and (session is None or place is None):
        if isinstance(earlier, NoEntry):
            return Gone("is not known any more")
        if not earlier.entry.terminal:
            return NotYet()
        session, place = session_in(earlier.entry.result or {})
    if session is None or place is None:
        return Gone("has left no session")
    return Here(session) if place == here else Elsewhere(place, has_moved(place, here))


def handing_back_s(num_delivered: int, *, known: bool = True) -> float:
    """Return for how long a delivery that is for another worker is kept from all.

    Args:
        known: whether another worker can take it now, as far as is known.
    """
    quick = known and num_delivered <= _QUICK_DELIVERIES
    return random.uniform(*(_QUICK_S if quick else _APART_S))  # noqa: S311


def earlier_of(wanted: Continuation, agent: str) -> TaskKey | None:
    """Return the task whose entry has to be read to know where the session is; None if `wanted` says it."""
    return wanted.earlier(agent) if wanted.session is None or wanted.place is None else None
