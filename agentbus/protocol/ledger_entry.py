"""The ledger's entry of one task: its states, its claim, and how it changes.

An entry that is terminal carries the whole result message, so that any reader of it can publish the result again under
the same id.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentbus.errors import CorruptEntryError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.headers import KV_OPERATION, Headers
from agentbus.protocol.json_codec import Json, decode
from agentbus.protocol.messages import Result, Task
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.timestamps import now

State = Literal["queued", "working", "completed", "failed", "needs_approval", "cancelled"]
TERMINAL: Final[frozenset[str]] = frozenset({"completed", "failed", "needs_approval", "cancelled"})


class Claim(BaseModel):
    """Who works on a task.

    The nonce names the claim, the counter its renewals: together they tell one write from every other.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    worker: str
    nonce: str
    renewals: int = 0
    lease_s: float
    since: str


class CancelRequest(BaseModel):
    """A request to stop the task."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    by: str
    reason: str = ""
    at: str


class Entry(BaseModel):
    """The ledger's record of one task."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    state: State
    digest: str
    sender: str
    inbox: str
    task_type: str
    created_at: str | None = None
    attempt: int = 0
    claim: Claim | None = None
    cancel: CancelRequest | None = None
    retry_after_s: float | None = None
    last_failure: str | None = None
    result: dict[str, Json] | None = None
    settled_at: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether the task has its one result."""
        return self.state in TERMINAL

    @property
    def result_id(self) -> str:
        """The id of the committed result; empty while there is none."""
        found = (self.result or {}).get("id")
        return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as it was read: with its key, its revision and the server's time of its last change."""

    agent: str
    task_id: str
    entry: Entry
    revision: int
    changed_at: datetime
    headers: Headers = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class NoEntry:
    """No entry. `revision` is what a create must expect: not 0 if an entry was removed here."""

    revision: int = 0


def queued(task: Task, inbox: str) -> Entry:
    """The entry of a task that no worker has claimed."""
    return Entry(
        state="queued",
        digest=task.digest(),
        sender=task.sender,
        inbox=inbox,
        task_type=task.task_type,
        created_at=task.created_at,
    )


def claimed(base: Entry, claim: Claim, attempt: int) -> Entry:
    """The entry after a claim."""
    return base.model_copy(update={"state": "working", "claim": claim, "attempt": attempt})


def renewed(base: Entry) -> Entry:
    """The entry after one more renewal of its lease."""
    if base.claim is None:
        raise ValueError("only a claimed entry has a lease to renew")
    claim = base.claim.model_copy(update={"renewals": base.claim.renewals + 1})
    return base.model_copy(update={"claim": claim})


def settled(base: Entry, result: Result) -> Entry:
    """The entry with its result: the commit point."""
    return base.model_copy(update={"state": result.status, "result": result.to_json(), "settled_at": now()})


def read_entry(message: StoredMessage) -> Record | NoEntry:
    """Interpret a message of the bucket.

    Raises:
        CorruptEntryError: it is empty, unreadable, or a copy that the server relayed from elsewhere.
    """
    key = subjects.parse_state(message.subject)
    if key is None:
        raise CorruptEntryError(f"{message.subject} is not a ledger key")
    agent, task_id = key
    where = f"the ledger entry of {task_id} (agent {agent}) cannot be read"
    if message.relayed:
        raise CorruptEntryError(f"{where}: the server was made to store a copy of another message in its place")
    if message.headers.get(KV_OPERATION) in ("DEL", "PURGE"):
        return NoEntry(message.seq)
    try:
        entry = Entry.model_validate(decode(message.data))
    except MessageError as error:
        raise CorruptEntryError(f"{where}: {error}") from None
    except ValidationError as error:
        raise CorruptEntryError(f"{where}: {error.error_count()} fields are missing or wrong") from None
    return Record(agent, task_id, entry, message.seq, message.time, message.headers)
