"""Decide what to do next with a task, as pure functions.

They see the ledger, the delivery and the clock, and touch nothing; `settling.job` carries them out. The rule
behind all of them: the ledger key decides, and only a compare-and-set on it decides for sure.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from agentbus.protocol.ledger_entry import Entry, NoEntry, Record

_LONGEST_RETRY_S: Final = 3600.0
"""The longest pause before another attempt at a task: the doubling of `retry_backoff_seconds` ends here."""


@dataclass(frozen=True, slots=True)
class Claim:
    """No worker has the task, or its owner is gone: take it, as this attempt, if the key still is at `revision`."""

    base: Entry
    revision: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Republish:
    """The task has its result. Make sure that it is in the inbox, then ack; run nothing."""

    record: Record


@dataclass(frozen=True, slots=True)
class SettleCancelled:
    """A coordinator asked to cancel the task, and no worker has it: settle it unrun."""

    base: Entry
    revision: int


@dataclass(frozen=True, slots=True)
class SettleExhausted:
    """Too many workers were lost over this task: settle it as failed."""

    base: Entry
    revision: int


@dataclass(frozen=True, slots=True)
class Leave:
    """The owner lives: hand the delivery back, and look again when its lease could be over."""


Decision: TypeAlias = Claim | Republish | SettleCancelled | SettleExhausted | Leave


@dataclass(frozen=True, slots=True)
class Policy:
    """How often a task is tried, and whether a task whose worker was lost is tried again at all."""

    max_attempts: int = 3
    retry_lost: bool = True


def on_delivery(found: Record | NoEntry, fresh: Entry, *, wait_s: float, policy: Policy) -> Decision:
    """What a delivered task calls for.

    Args:
        found: what the ledger says.
        fresh: the entry of this task if the ledger has none (a foreign publisher does not write one).
        wait_s: seconds until the lease of the owner that `found` names is over, or until its next attempt is due;
            0 or less when nothing stands against a claim.
    """
    if isinstance(found, NoEntry):
        return Claim(fresh, found.revision, attempt=1)
    entry = found.entry
    if entry.result is not None:
        return Republish(found)
    if entry.state == "working" and wait_s > 0:
        return Leave()
    if entry.cancel is not None:
        return SettleCancelled(entry, found.revision)
    if wait_s > 0:
        return Leave()
    if entry.attempt >= policy.max_attempts or (entry.state == "working" and not policy.retry_lost):
        return SettleExhausted(entry, found.revision)
    return Claim(entry, found.revision, attempt=entry.attempt + 1)


@dataclass(frozen=True, slots=True)
class CommitOutbox:
    """The claim still is ours: commit the outcome from disk on top of `record`, then publish it."""

    record: Record


@dataclass(frozen=True, slots=True)
class RepublishOutbox:
    """It was committed: publish it again under its id."""

    record: Record


@dataclass(frozen=True, slots=True)
class DropOutbox:
    """It must not be sent: another worker has the task, or the server no longer remembers the result's id."""

    reason: str


def on_outbox(
    found: Record | NoEntry, *, nonce: str, result_id: str, expired: bool
) -> CommitOutbox | RepublishOutbox | DropOutbox:
    """What to do at start with an outcome that was found on disk.

    Args:
        found: what the ledger says of its task.
        nonce: the claim under which it was made.
        result_id: the id of its result.
        expired: whether it is older than the server's memory of result ids.
    """
    if isinstance(found, NoEntry):
        return DropOutbox("the ledger does not know the task any more")
    entry = found.entry
    if entry.terminal:
        if entry.result_id != result_id:
            return DropOutbox("the task has another result")
        return DropOutbox("it is too old to be published again") if expired else RepublishOutbox(found)
    if entry.state == "working" and entry.claim is not None and entry.claim.nonce == nonce:
        return CommitOutbox(found)
    return DropOutbox("another worker has the task")


def retry_pause_s(attempt: int, *, base_s: float, jitter: float) -> float:
    """Return the pause after a failed attempt before the next one: doubled for each attempt, an hour at the longest.

    Args:
        attempt: the one that failed; the first is 1.
        base_s: `retry_backoff_seconds`.
        jitter: a factor around 1, so that tasks that failed together do not come back together.
    """
    doublings = min(attempt - 1, 16)  # beyond that even a pause of a second is over an hour, and powers overflow
    return min(base_s * 2**doublings * jitter, _LONGEST_RETRY_S)
