"""How long results, the states of tasks and files are kept: what a bus may choose, and what an existing one has.

A bus remembers its choice as the `max_age` of its streams. The rules hold for every choice:

* A result is kept at least as long as the server remembers its id. So no redelivery of its task can store it twice.
* A state is kept longer than the result of its task, by as much as the result may be stored later than the state: it
  may wait on the disk of its worker for as long as the server remembers ids.
* Files go with the states, which name them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentbus.errors import ConfigError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import party_of_stream

DAY_S: Final = 86_400
_DAY_NS: Final = DAY_S * 1_000_000_000
DUPLICATE_WINDOW_DAYS: Final = 8
"""How long the server remembers the id of a result: a day longer than a task can live."""
LEAST_RESULTS_DAYS: Final = DUPLICATE_WINDOW_DAYS
LEAST_STATES_DAYS: Final = LEAST_RESULTS_DAYS + DUPLICATE_WINDOW_DAYS
MOST_DAYS: Final = 3650
_LATER_NS: Final = DUPLICATE_WINDOW_DAYS * _DAY_NS


@dataclass(frozen=True, slots=True)
class Retention:
    """How long results and states are kept, in nanoseconds as `max_age` of their streams; 0 for ever.

    Files are kept as long as states.
    """

    results_ns: int = 30 * _DAY_NS
    states_ns: int = 38 * _DAY_NS


@dataclass(frozen=True, slots=True)
class Keep:
    """What the caller of set-up asked for, in days; None leaves what the bus has."""

    results_days: int | None = None
    states_days: int | None = None


DEFAULT: Final = Retention()
NOT_ASKED: Final = Keep()


def retention_of(streams: Mapping[str, Mapping[str, Any]]) -> Retention:
    """Return the retention that a bus should have, by the configurations of its streams by name.

    That is the one that it has, as far as it keeps the rules.
    """
    results, states = (_kept_ns(streams.get(name)) for name in (subjects.RESULTS_STREAM, subjects.STATE_STREAM))
    if results is None or results < LEAST_RESULTS_DAYS * _DAY_NS:
        results = DEFAULT.results_ns
        if states is not None and states >= LEAST_STATES_DAYS * _DAY_NS:
            results = min(results, states - _LATER_NS)
    if states is None or states < results + _LATER_NS:
        states = results + _LATER_NS
    return Retention(_max_age(results), _max_age(states))


def with_ledger(streams: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Return the configurations with one as that of the ledger, where each party has its own: all keep equally long."""
    one = next((config for name, config in streams.items() if party_of_stream(name) is not None), None)
    return streams if one is None else {subjects.STATE_STREAM: one, **streams}


def chosen(streams: Mapping[str, Mapping[str, Any]], keep: Keep) -> Retention:
    """Return the retention that a bus gets: what was asked for, and for the rest what it should have.

    Raises:
        ConfigError: a result would outlive the state that it points to; the message says which options go together.
    """
    now = retention_of(streams)
    results = now.results_ns if keep.results_days is None else keep.results_days * _DAY_NS
    states = now.states_ns if keep.states_days is None else keep.states_days * _DAY_NS
    if (states or math.inf) >= (results or math.inf) + _LATER_NS:
        return Retention(results, states)
    fix = (
        f"--keep-states {results // _DAY_NS + DUPLICATE_WINDOW_DAYS}"
        if keep.results_days is not None
        else f"--keep-results {states // _DAY_NS - DUPLICATE_WINDOW_DAYS}"
    )
    raise ConfigError(
        f"results would be kept for {_text(results)}, and the states that they point to for {_text(states)}: a state "
        f"must be kept {DUPLICATE_WINDOW_DAYS} days longer, because a result may be stored so much later; use {fix}"
    )


def _kept_ns(config: Mapping[str, Any] | None) -> float | None:
    """How long a stream keeps its messages; infinity for ever, and None if it does not exist."""
    return None if config is None else config.get("max_age") or math.inf


def _max_age(kept_ns: float) -> int:
    return 0 if kept_ns == math.inf else int(kept_ns)


def _text(max_age: int) -> str:
    return f"{max_age / _DAY_NS:g} days" if max_age else "ever"
