"""The streams of the ledger: one with all of it or, on a bus whose parties have accounts, one for each of them.

The server bounds a stream, and no part of one. So a party that writes entries until it is refused fills a stream of
its own. The subjects are the same in both forms. `KV_AGENT_STATE` is the stream of the undivided ledger. Where it is
divided no stream has that name, but the server maps a direct get by it, of the key of one party, to the stream of that
party: so workers of every version read one entry in the same way.
"""

from typing import Final

from agentbus.protocol import subjects
from agentbus.protocol.subjects import STATE_STREAM

_PREFIX: Final = f"{STATE_STREAM}_"
_KEYS: Final = f"$KV.{subjects.STATE_BUCKET}."
_WILDCARDS: Final = ("*", ">")
NO_KEY: Final = f"$KV.{subjects.STATE_BUCKET}"
"""What the undivided ledger takes while its keys become those of others: no key, and no party may publish to it."""


def ledger_of(party: str) -> str:
    """The stream with the ledger of one party: the states of an agent's tasks, the MCP tasks of a coordinator."""
    return f"{_PREFIX}{party}"


def party_of_stream(stream: str) -> str | None:
    """The party whose ledger a stream is, where the ledger is divided; None for every other stream."""
    party = stream.removeprefix(_PREFIX)
    return party if party != stream and subjects.is_agent_id(party) else None


def is_ledger(stream: str) -> bool:
    """Whether a stream is the ledger, or that of one party."""
    return stream == STATE_STREAM or party_of_stream(stream) is not None


def party_in(subject: str) -> str | None:
    """The party that a ledger subject names, which may hold wildcards; None where it means those of all."""
    party, dot, _ = subject.removeprefix(_KEYS).partition(".")
    return party if subject.startswith(_KEYS) and dot and party not in _WILDCARDS else None


def narrowed(subject: str, party: str) -> str:
    """What a filter of the ledger means in the stream of one party, which takes no wider one."""
    if subject == subjects.STATE_SUBJECTS:
        return subjects.states(party)
    return f"{_KEYS}{party}.{subject.removeprefix(_KEYS).partition('.')[2]}"


def is_whole(stream: str, subject: str) -> bool:
    """Whether a filter means all that a stream of the ledger holds: then `>` means the same, and costs less."""
    if stream == STATE_STREAM:
        return subject == subjects.STATE_SUBJECTS
    party = party_of_stream(stream)
    return party is not None and subject == subjects.states(party)


def stored_as(subject: str) -> str:
    """Where a direct get of keys of one party, by the name of the undivided ledger, is answered if that is divided."""
    key = subject.removeprefix(f"{subjects.direct_get(STATE_STREAM)}.")
    party = party_in(key) if key != subject else None
    return subject if party is None else subjects.last_of(ledger_of(party), key)
