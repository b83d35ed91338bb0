"""Names of the audit: its streams, its subjects and its bounds.

The server writes a line for each message that enters the queue: a publisher can neither leave it out nor write it for
another. What only a client can tell is a line of its own, for which the server attests the party, and no more.
No line holds the content of a task.
"""

from typing import Final, Literal

from agentbus.protocol.subjects import COORDINATOR

STREAM: Final = "AGENT_AUDIT"
"""Holds a line for each task that was published: the headers of its message."""
SAID_STREAM: Final = "AGENT_AUDIT_SAID"
"""Holds what parties said that they did."""
STREAMS: Final = (STREAM, SAID_STREAM)
PUBLISHED: Final = ("audit.*.tasks", "audit.*.tasks.*")
NOT_ATTESTED: Final = "~"
"""Stands where the server puts the id of the party, if that has an account of its own. No id may hold it."""
SAID_BY_PARTY: Final = "audit.*.said.*"
"""Where that is stored."""
ALL: Final = "audit.>"
REPUBLISH: Final = {"src": "agent.*.>", "dest": "audit.{{wildcard(1)}}.>", "headers_only": True}
"""What the stream of tasks republishes, once a message is stored; a duplicate is not."""
MAX_HEADER_BYTES: Final = 4096
"""Of the headers of a task that a worker accepts. Those of agentbus take up to 1200, with those of a trace."""
MAX_LINE_BYTES: Final = 2 * MAX_HEADER_BYTES
"""Of a line: the headers of a task and those that the server adds. A larger one is not stored: no worker accepts its
task either."""

Verb = Literal["cancel", "answer", "retry", "pause", "resume", "requeue", "drop"]
_OF_COORDINATORS: Final[tuple[Verb, ...]] = ("cancel", "answer", "retry")
_OF_OPERATORS: Final[tuple[Verb, ...]] = ("pause", "resume")
_OF_ADMINISTRATOR: Final[tuple[Verb, ...]] = ("requeue", "drop")


def said(verb: Verb) -> str:
    """Where a party says what it did."""
    return f"audit.{NOT_ATTESTED}.said.{verb}"


def said_by(party: str, subject: str) -> str:
    """The subject under which the server stores what `party` says on `subject`."""
    return subject.replace(NOT_ATTESTED, party)


# Each verb by itself: a party that may use any could fill the stream under as many subjects as it likes.
SAID: Final = tuple(map(said, _OF_COORDINATORS))
"""Where a party says what it did."""
SAID_BY_OPERATORS: Final = tuple(map(said, _OF_OPERATORS))
"""Where an operator says what it did with an agent."""


def said_by_administrator(administrator: str) -> tuple[str, ...]:
    """Where the administrator, whose user is inside the account of the streams, says what it did."""
    return tuple(said_by(administrator, said(verb)) for verb in _OF_ADMINISTRATOR)


def party_of(subject: str) -> str | None:
    """The party whose lines lie under a subject; None where the subject names none."""
    match subject.split("."):
        case ["audit", party, "said", _] | ["audit", _, "tasks", party]:
            return party
        case ["audit", _, "tasks"]:
            return COORDINATOR
        case _:
            return None
