"""The ledger's entry of one task: its states, its claim, and how it changes.

An entry that is terminal carries the whole result message, so that any reader of it can publish the result again under
the same id.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from agentbus.errors import CorruptEntryError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.conversations import continuation
from agentbus.protocol.conversations.continuation import MAX_NEEDS, Continuation
from agentbus.protocol.headers import KV_OPERATION, Headers
from agentbus.protocol.json_codec import Json, decode
from agentbus.protocol.listed.labels import MAX_ABOUT_CHARS, first_words, group_of, is_group_name
from agentbus.protocol.messages import MAX_ADDRESS_CHARS, MAX_TASK_TYPE_CHARS, Result, Task
from agentbus.protocol.outcomes.run_report import Run, run_in
from agentbus.protocol.outcomes.usage_of_runs import UsageOfRuns, with_run
from agentbus.protocol.questions.question import MAX_QUESTIONS, Question
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.timestamps import now
from agentbus.protocol.validation import fault_line

if TYPE_CHECKING:
    from agentbus.protocol.listed.summary import Summary

State = Literal["queued", "working", "completed", "failed", "needs_approval", "cancelled"]
TERMINAL_STATES: Final[dict[str, State]] = {
    "completed": "completed",
    "failed": "failed",
    "needs_approval": "needs_approval",
    "cancelled": "cancelled",
}
TERMINAL: Final[frozenset[str]] = frozenset(TERMINAL_STATES)

MAX_REASON_CHARS: Final = 2_000
"""Of the reason of a cancel request: it stands in the entry beside the whole result, in one message."""
_LONGEST_WAIT_S: Final = 7 * 86_400.0
"""Of a lease and of a pause before an attempt: the task stream keeps a message for so long, by default."""
_MOST_COUNTED: Final = 2**31
MOST_PLACES: Final = 16
_MAX_FAILURE_CHARS: Final = 65_536
_MAX_RESULT_ID_CHARS: Final = 512


def _check_group(text: str) -> str:
    if not is_group_name(text):
        raise ValueError("is no name of a group")
    return text


def _check_inbox(text: str) -> str:
    if not subjects.is_agent_id(text) or subjects.agent_id(text) != text:
        raise ValueError("is not an agent id")
    return text


# What another party can write is bounded where it is read: a number for which a timer can be set, an id that can stand
# in a subject or a header, a text that fits on a screen.
Short = Annotated[str, StringConstraints(max_length=MAX_ADDRESS_CHARS)]
Sender = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ADDRESS_CHARS)]
Inbox = Annotated[str, AfterValidator(_check_inbox)]
TaskType = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TASK_TYPE_CHARS)]
_Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
_Seconds = Annotated[float, Field(ge=0, le=_LONGEST_WAIT_S, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=_MOST_COUNTED)]


class Claim(BaseModel):
    """Who works on a task.

    The nonce names the claim, the counter its renewals: together they tell one write from every other. `used` is what
    the run had used at the last renewal, as far as its agent told it by then.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    worker: Short
    nonce: _Token
    renewals: Count = 0
    lease_s: _Seconds
    since: Short
    used: dict[str, Json] | None = None


class CancelRequest(BaseModel):
    """A request to stop the task."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    by: Short
    reason: Annotated[str, StringConstraints(max_length=_MAX_FAILURE_CHARS)] = ""
    at: Short


class Setbacks(BaseModel):
    """Attempts that came to nothing for a reason of the machine: how often in which place, the last reason, since when.

    A place is a state folder on a machine. `since` is the server's time of the first one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    count: Annotated[dict[Short, Count], Field(max_length=MOST_PLACES)]
    code: Short
    since: Short


class _CommittedResult(Result):
    """A result of which the id can stand in the header that lets the server drop a repetition."""

    id: Annotated[str, StringConstraints(pattern=rf"^[!-~]{{1,{_MAX_RESULT_ID_CHARS}}}$")]


class Entry(BaseModel):
    """The ledger's record of one task. It holds a result if, and only if, its state is a final one.

    `publication` is a random part of the message id under which the task is published; None in entries of publishers
    before it was made. `answered_by` is the coordinator that answers what the task asks for: another one must not.
    `earlier` is what runs before the one of this claim, or of the result, used and cost. With `needs` it is published
    in the second form of subjects only; `continues` says with what it goes on. `questions` are those of its runs.
    `about` is the beginning of the content.
    """

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    state: State
    digest: Annotated[str, StringConstraints(max_length=128)]
    sender: Sender
    inbox: Inbox
    task_type: TaskType
    created_at: Short | None = None
    publication: _Token | None = None
    attempt: Count = 0
    claim: Claim | None = None
    cancel: CancelRequest | None = None
    retry_after_s: _Seconds | None = None
    last_failure: Annotated[str, StringConstraints(max_length=_MAX_FAILURE_CHARS)] | None = None
    setbacks: Setbacks | None = None
    result: dict[str, Json] | None = None
    settled_at: Short | None = None
    answered_by: Inbox | None = None
    needs: Annotated[tuple[Short, ...], Field(max_length=MAX_NEEDS)] | None = None
    continues: Continuation | None = None
    earlier: UsageOfRuns | None = None
    questions: Annotated[tuple[Question, ...], Field(max_length=MAX_QUESTIONS)] | None = None
    group: Annotated[str, AfterValidator(_check_group)] | None = None
    about: Annotated[str, StringConstraints(max_length=MAX_ABOUT_CHARS)] | None = None

    @model_validator(mode="after")
    def _check_result(self) -> Self:
        if (self.state in TERMINAL) != (self.result is not None):
            raise ValueError("a result belongs to a final state, and to no other")
        if self.result is not None:
            try:
                result = _CommittedResult.model_validate(self.result)
            except ValidationError as error:  # its own text quotes values
                raise ValueError(f"result: {fault_line(error, 'the whole')}") from None
            if result.status != self.state:
                raise ValueError("the result has another status than the entry")
        return self

    @property
    def terminal(self) -> bool:
        """Whether the task has its one result."""
        return self.state in TERMINAL

    @property
    def in_second_form(self) -> bool:
        """Whether its message is one of the second form, also where `main` has published it."""
        return bool(self.needs)

    @property
    def result_id(self) -> str:
        """The id of the committed result; empty while there is none."""
        found = (self.result or {}).get("id")
        return found if isinstance(found, str) else ""

    def earlier_with(self, run: Run | None = None) -> UsageOfRuns | None:
        """What all runs so far used, with that of the present claim: as `run` says, or else its last renewal."""
        if run is None and self.state == "working" and self.claim is not None and self.claim.used is not None:
            run = run_in({"run": self.claim.used})
        return with_run(self.earlier, run)


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as it was read: with its key, its revision and the server's time of its last change.

    Attributes:
        summary: what is known of the result, where `entry` was read without it.
    """

    key: TaskKey
    entry: Entry
    revision: int
    changed_at: datetime
    headers: Headers = field(default_factory=dict[str, str], repr=False)
    summary: "Summary | None" = None

    @property
    def agent(self) -> str:
        """The id of the agent that the task was sent to."""
        return self.key.agent

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.key.id

    @property
    def owner(self) -> str:
        """The id of the coordinator that published the task."""
        return self.key.owner


@dataclass(frozen=True, slots=True)
class NoEntry:
    """No entry. `revision` is what a create must expect: not 0 if an entry was removed here."""

    revision: int = 0


def queued(task: Task, inbox: str, publication: str | None = None) -> Entry:
    """The entry of a task that no worker has claimed; see `Entry` for `publication`."""
    return Entry(
        state="queued",
        digest=task.digest(),
        sender=task.sender,
        inbox=inbox,
        task_type=task.task_type,
        created_at=task.created_at,
        publication=publication,
        **_of_conversation(task),
        **_labels_of(task),
    )


def _of_conversation(task: Task) -> dict[str, Any]:
    """Return the fields of a task that needs something; none of any other, so that its entry is as it always was."""
    fields = task.model_extra or {}
    if not (needs := continuation.needs_of(fields)):
        return {}
    found = continuation.continuation_of(fields)
    # Where the session is, says the task that has it: the entry names that one alone.
    short = None if found is None else found.model_copy(update={"session": None, "place": None})
    return {"needs": needs, **({"continues": short} if short else {})}


def _labels_of(task: Task) -> dict[str, Any]:
    """Return what a list shows of the task; nothing where there is none."""
    found = {"group": group_of(task.model_extra or {}), "about": first_words(task.payload and task.payload.content)}
    return {name: text for name, text in found.items() if text}


def claimed(base: Entry, claim: Claim, attempt: int) -> Entry:
    """The entry after a claim."""
    changes = {"state": "working", "claim": claim, "attempt": attempt, "earlier": base.earlier_with()}
    return base.model_copy(update=changes)


def renewed(base: Entry, run: Run | None = None) -> Entry:
    """The entry after one more renewal of its lease; `run` is what the agent has told so far."""
    if base.claim is None:
        raise ValueError("only a claimed entry has a lease to renew")
    used = run.figures.to_json() if run else base.claim.used
    claim = base.claim.model_copy(update={"renewals": base.claim.renewals + 1, "used": used})
    return base.model_copy(update={"claim": claim})


def lease_ended(base: Entry, nonce: str) -> Entry:
    """The entry of a task whose worker is known to have ended: its lease is over, and the task is taken over at once.

    All else is as it is when a lease has run out: the attempt counts. A new `nonce` keeps out whatever the old claim
    would still write.
    """
    if base.claim is None:
        raise ValueError("only a claimed entry has a lease to end")
    return base.model_copy(update={"claim": base.claim.model_copy(update={"nonce": nonce, "lease_s": 0.0})})


def handed_back(base: Entry, setbacks: Setbacks | None = None, run: Run | None = None) -> Entry:
    """The entry of a task that was not run, or not to its end: any worker may claim it at once.

    The attempt does not count; what it used, as `run` tells, does.
    """
    changes = {"state": "queued", "attempt": max(0, base.attempt - 1), "retry_after_s": None}
    return base.model_copy(update={**changes, "setbacks": setbacks or base.setbacks, "earlier": base.earlier_with(run)})


def queued_again(base: Entry, *, retry_after_s: float, failure: str | None, run: Run | None = None) -> Entry:
    """The entry of a task after an attempt that counts: for a retry after `retry_after_s`."""
    changes = {"state": "queued", "retry_after_s": retry_after_s, "last_failure": failure}
    return base.model_copy(update={**changes, "earlier": base.earlier_with(run)})


def settled(base: Entry, result: Result) -> Entry:
    """The entry with its result: the commit point."""
    over = {"settled_at": now(), "questions": None}
    return base.model_copy(update={"state": result.status, "result": result.to_json(), **over})


def read_entry(message: StoredMessage) -> Record | NoEntry:
    """Interpret a message of the bucket.

    Raises:
        CorruptEntryError: it is empty, unreadable, or a copy that the server relayed from elsewhere.
    """
    key = subjects.parse_state(message.subject)
    if key is None:
        raise CorruptEntryError(f"{message.subject} is not a ledger key")
    if message.headers.get(KV_OPERATION) in ("DEL", "PURGE") and not message.relayed:
        return NoEntry(message.seq)
    try:
        entry = _entry(message)
    except MessageError as error:
        raise CorruptEntryError(
            f"the ledger entry of {key} cannot be read: {error}",
            revision=message.seq,
            changed_at=message.time,
        ) from None
    if key.owner != COORDINATOR:
        # The owner may write what it likes here, but only `main` has its results sent to another inbox than its own.
        entry = entry.model_copy(update={"inbox": key.owner})
    return Record(key, entry, message.seq, message.time, message.headers)


def _entry(message: StoredMessage) -> Entry:
    if message.relayed:
        raise MessageError("the server was made to store a copy of another message in its place")
    try:
        return Entry.model_validate(decode(message.data))
    except ValidationError as error:
        raise MessageError(fault_line(error, "entry")) from None
