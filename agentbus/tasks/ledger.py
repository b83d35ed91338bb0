"""The state of a task: one key of the bucket AGENT_STATE, and every change to it a compare-and-set.

JetStream's acknowledgements are neither durable nor fencing; this one key decides. An entry that is terminal carries
the whole result message, so that whoever meets it can publish the result again under the same id.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentbus.bus.jetstream import Bus, StoredMessage
from agentbus.bus.nats_client import Headers
from agentbus.errors import CorruptEntryError, MessageError, WrongRevisionError
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.messages import Json, ResultStatus, Task, decode, now

State = Literal["queued", "working", "completed", "failed", "needs_approval", "cancelled"]
TERMINAL: Final[frozenset[str]] = frozenset({"completed", "failed", "needs_approval", "cancelled"})
STATE_HEADER: Final = "Bus-State"
REVISION_HEADER: Final = "Bus-Ledger-Revision"
_OPERATION: Final = "KV-Operation"
_LAG_PATIENCE_S: Final = 3.0
_LAG_PAUSE_S: Final = 0.05
# A message that the server copied as the answer to a direct get carries these: somebody named this key as the reply
# subject of a request, and the content is not a ledger entry that anybody wrote here.
RELAYED_HEADERS: Final = ("Nats-Stream", "Nats-Sequence")


class Claim(BaseModel):
    """Who works on a task.

    The nonce names the claim, the counter its renewals: together they tell one write from every other.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    worker: str
    nonce: str
    renewals: int = 0
    lease_s: float
    since: str


class CancelRequest(BaseModel):
    """Somebody wants the task to stop."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    by: str
    reason: str = ""
    at: str


class Entry(BaseModel):
    """The ledger's record of one task."""

    model_config = ConfigDict(frozen=True, extra="allow")

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
    """The entry of a task that nobody has claimed."""
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


def settled(base: Entry, status: ResultStatus, result: dict[str, Json]) -> Entry:
    """The entry with its result: the commit point."""
    return base.model_copy(update={"state": status, "result": result, "settled_at": now()})


class Ledger:
    """The bucket of one bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def read(self, agent: str, task_id: str) -> Record | NoEntry:
        """The present entry of a task.

        Another replica of the server may lag behind and answer with an older one; only a write decides.

        Raises:
            CorruptEntryError: the key holds something that is not an entry.
            SetupMissingError: there is no ledger on this bus.
        """
        message = await self._bus.last_message(subjects.STATE_STREAM, subjects.state(agent, task_id))
        return NoEntry() if message is None else read_entry(message)

    async def read_newer(
        self, agent: str, task_id: str, revision: int, *, timeout_s: float = _LAG_PATIENCE_S
    ) -> Record | NoEntry:
        """The entry at a later revision than `revision`, which the key is known to have had, or not to be at any more.

        A replica that lags behind is asked again for `timeout_s`. Then this is what it says: the ledger may have been
        restored to an older state.

        Raises:
            CorruptEntryError, SetupMissingError: see `read`.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            found = await self.read(agent, task_id)
            if found.revision > revision or asyncio.get_running_loop().time() > deadline:
                return found
            await asyncio.sleep(_LAG_PAUSE_S)

    async def write(
        self, agent: str, task_id: str, entry: Entry, *, revision: int, timeout_s: float = 10.0, flush: bool = True
    ) -> int:
        """Compare-and-set: store `entry` if the key still is at `revision` (0: does not exist); returns the new one.

        `flush`: see `Bus.publish`.

        Raises:
            WrongRevisionError: the key has changed; if an answer was lost on the way, the change may be this one.
            StreamFullError: the ledger is full.
        """
        trace = tracing.headers() if entry.terminal else {}  # who reads the result can link to the run it came from
        stored = await self._bus.store(
            subjects.state(agent, task_id),
            entry.model_dump_json(exclude_none=True).encode(),
            expected_revision=revision,
            headers={STATE_HEADER: entry.state, **trace},
            timeout_s=timeout_s,
            flush=flush,
        )
        return stored.seq

    async def remove(self, agent: str, task_id: str, *, revision: int) -> None:
        """Take back an entry whose task was refused by the bus.

        Raises:
            WrongRevisionError: somebody has changed it meanwhile.
        """
        await self._bus.store(
            subjects.state(agent, task_id), b"", expected_revision=revision, headers={_OPERATION: "DEL"}
        )

    async def create(self, agent: str, task_id: str, entry: Entry) -> Record | int:
        """Make the entry unless there is one: returns the revision of the new entry, or the entry that is there."""
        revision = 0
        while True:
            try:
                return await self.write(agent, task_id, entry, revision=revision)
            except WrongRevisionError:
                found = await self.read_newer(agent, task_id, revision)
                if isinstance(found, Record):
                    return found
                if found.revision == revision:
                    raise
                revision = found.revision


def read_entry(message: StoredMessage) -> Record | NoEntry:
    """Interpret a message of the bucket.

    Raises:
        CorruptEntryError: it is empty, unreadable, or a copy that the server relayed from elsewhere.
    """
    key = subjects.parse_state(message.subject)
    if key is None:
        raise CorruptEntryError(f"{message.subject} is not a ledger key")
    agent, task_id = key
    if message.headers.get(_OPERATION) in ("DEL", "PURGE"):
        return NoEntry(message.seq)
    where = f"the ledger entry of {task_id} (agent {agent}) cannot be read"
    try:
        entry = Entry.model_validate(decode(message.data))
    except MessageError as error:
        raise CorruptEntryError(f"{where}: {error}") from None
    except ValidationError as error:
        raise CorruptEntryError(f"{where}: {error.error_count()} fields are missing or wrong") from None
    return Record(agent, task_id, entry, message.seq, message.time, message.headers)
