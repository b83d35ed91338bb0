"""Names and lines of the audit: who published which task, and who cancelled, answered or retried one.

The server writes a line for each message that enters the queue: a publisher can neither leave it out nor write it for
another. What only a client can tell is a line of its own, for which the server attests the party, and no more.
No line holds the content of a task.
"""

from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentbus.protocol import message_ids, subjects
from agentbus.protocol.headers import MSG_ID, MSG_SIZE, REVISION, Headers, number
from agentbus.protocol.json_codec import encode
from agentbus.protocol.subjects import COORDINATOR, TaskKey

STREAM: Final = "AGENT_AUDIT"
"""Holds a line for each task that was published: the headers of its message."""
SAID_STREAM: Final = "AGENT_AUDIT_SAID"
"""Holds what parties said that they did."""
PUBLISHED: Final = ("audit.*.tasks", "audit.*.tasks.*")
_NOT_ATTESTED: Final = "~"
"""Stands where the server puts the id of the party, if that has an account of its own. No id may hold it."""
SAID: Final = f"audit.{_NOT_ATTESTED}.said.*"
"""Where a party says what it did."""
SAID_BY_PARTY: Final = "audit.*.said.*"
"""Where that is stored."""
ALL: Final = "audit.>"
REPUBLISH: Final = {"src": "agent.*.>", "dest": "audit.{{wildcard(1)}}.>", "headers_only": True}
"""What the stream of tasks republishes, once a message is stored; a duplicate is not."""
MAX_HEADER_BYTES: Final = 8192
"""Of the headers of a task that a worker accepts. Those of agentbus take up to 1200, with those of a trace."""
MAX_LINE_BYTES: Final = 2 * MAX_HEADER_BYTES
"""Of a line: the headers of a task and those that the server adds. A larger one is not stored: no worker accepts its
task either."""
MAX_LINES: Final = 20_000
"""Of one party for one agent, and of one verb: a party that needs more pushes out lines of its own only."""

Verb = Literal["cancel", "answer", "retry", "requeue", "drop"]
_MAX_CHARS: Final = 200


def said(verb: Verb) -> str:
    """Where a party says what it did."""
    return f"audit.{_NOT_ATTESTED}.said.{verb}"


def said_by(party: str, subject: str) -> str:
    """The subject under which the server stores what `party` says on `subject`."""
    return subject.replace(_NOT_ATTESTED, party)


class Line(NamedTuple):
    """One line of the audit.

    Attributes:
        who: the party; `main` where the bus has no account for each party.
        attested: whether the server attests `who`; else the party says it itself.
        what: `publish`, or what the party said that it did.
        task: the task; None where the message names none.
        detail: the id of a new task, or the decision of an answer; empty if there is none.
        size: the size of a published task in bytes.
    """

    at: datetime
    who: str
    attested: bool
    what: str
    agent: str
    task: TaskKey | None
    detail: str = ""
    size: int | None = None


class _Said(BaseModel):
    """The body of what a party says."""

    model_config = ConfigDict(extra="ignore")

    by: Annotated[str, Field(max_length=_MAX_CHARS)] = ""
    agent: Annotated[str, Field(max_length=_MAX_CHARS)] = ""
    owner: Annotated[str, Field(max_length=_MAX_CHARS)] = COORDINATOR
    task: Annotated[str, Field(max_length=_MAX_CHARS)] = ""
    detail: Annotated[str, Field(max_length=_MAX_CHARS)] = ""


def said_body(by: str, key: TaskKey | None, detail: str = "") -> bytes:
    """Return the body of what a party says; `key` is the task that it did something with."""
    task = {} if key is None else {"agent": key.agent, "task": key.id, **key.owner_field}
    return encode({"by": by, **task, **({"detail": detail} if detail else {})})


def party_of(subject: str) -> str | None:
    """The party whose lines lie under a subject; None where the subject names none."""
    match subject.split("."):
        case ["audit", party, "said", _] | ["audit", _, "tasks", party]:
            return party
        case ["audit", _, "tasks"]:
            return COORDINATOR
        case _:
            return None


def read_line(subject: str, at: datetime, headers: Headers, data: bytes) -> Line | None:
    """Read a message of one of the two streams; None if it is no line."""
    match subject.split("."):
        case ["audit", party, "said", verb]:
            return _read_said(None if party == _NOT_ATTESTED else party, verb, at, data)
        case ["audit", agent, "tasks"]:
            return _read_published(agent, COORDINATOR, at, headers)
        case ["audit", agent, "tasks", party]:
            return _read_published(agent, party, at, headers)
        case _:
            return None


def _read_published(agent: str, party: str, at: datetime, headers: Headers) -> Line | None:
    if not (subjects.is_agent_id(agent) and subjects.is_agent_id(party)):
        return None
    msg_id = headers.get(MSG_ID, "")
    origin = message_ids.origin_of(msg_id)
    # A message that is queued again lacks the header: see `agentbus.admin.dead_letters.requeue`.
    has_publication = REVISION in headers or origin is not None
    task = message_ids.task_of_msg_id(origin or msg_id, agent, party, has_publication=has_publication)
    what = "publish" if origin is None else "publish again"
    return Line(at, party, True, what, agent, task, size=number(headers.get(MSG_SIZE, "")))


def _read_said(party: str | None, verb: str, at: datetime, data: bytes) -> Line | None:
    try:
        body = _Said.model_validate_json(data)
    except ValidationError:
        body = _Said()
    who = party or body.by
    if not subjects.is_agent_id(who):
        return None
    named = all(map(subjects.is_agent_id, (body.agent, body.owner))) and subjects.is_task_id(body.task)
    task = TaskKey(body.agent, body.task, body.owner) if named else None
    return Line(at, who, party is not None, verb, body.agent, task, body.detail)
