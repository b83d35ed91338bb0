"""Writes and reads the lines of the audit: who published which task, who cancelled one, who paused an agent."""

from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentbus.protocol import ids, subjects
from agentbus.protocol.audit.names import NOT_ATTESTED
from agentbus.protocol.headers import MSG_ID, MSG_SIZE, REVISION, Headers, number
from agentbus.protocol.json_codec import encode
from agentbus.protocol.subjects import COORDINATOR, TaskKey

_MAX_CHARS: Final = 200


class Line(NamedTuple):
    """One line of the audit.

    Attributes:
        who: the party.
        named_by: what names it. The server attests the subject on a bus with an account for each party; a message is
            what its sender wrote.
        what: `publish`, or what the party said that it did.
        task: the task; None where the message names none.
        detail: the id of a new task, or the decision of an answer; empty if there is none.
        size: the size of a published task in bytes.
    """

    at: datetime
    who: str
    named_by: Literal["subject", "message"]
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


def said_body(by: str, key: TaskKey | str | None, detail: str = "") -> bytes:
    """Return the body of what a party says; `key` is the task, or the agent, that it did something with."""
    task = {"agent": key.agent, "task": key.id, **key.owner_field} if isinstance(key, TaskKey) else {}
    agent = {"agent": key} if isinstance(key, str) else {}
    return encode({"by": by, **task, **agent, **({"detail": detail[:_MAX_CHARS]} if detail else {})})


def read_line(subject: str, at: datetime, headers: Headers, data: bytes) -> Line | None:
    """Read a message of one of the two streams; None if it is no line."""
    match subject.split("."):
        case ["audit", party, "said", verb]:
            return _read_said(None if party == NOT_ATTESTED else party, verb, at, data)
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
    origin = ids.origin_of(msg_id)
    # A message that is queued again lacks the header: see `agentbus.admin.dead_letters.requeue`.
    has_publication = REVISION in headers or origin is not None
    task = ids.task_of_msg_id(origin or msg_id, agent, party, has_publication=has_publication)
    what = "publish" if origin is None else "publish again"
    return Line(at, party, "subject", what, agent, task, size=number(headers.get(MSG_SIZE, "")))


def _read_said(party: str | None, verb: str, at: datetime, data: bytes) -> Line | None:
    try:
        body = _Said.model_validate_json(data)
    except ValidationError:
        body = _Said()
    who = party or body.by
    if not (subjects.is_agent_id(who) and subjects.is_agent_id(verb)):  # a verb is a name of that kind, too
        return None
    named = all(map(subjects.is_agent_id, (body.agent, body.owner))) and subjects.is_task_id(body.task)
    task = TaskKey(body.agent, body.task, body.owner) if named else None
    return Line(at, who, "message" if party is None else "subject", verb, body.agent, task, body.detail)
