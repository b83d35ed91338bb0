"""Decides what to do with a task, in pure functions of the ledger entry, the delivery and the clock.

`settling.claim` and `settling.unsettled` act on the decisions. The ledger key is authoritative, and only a
compare-and-set on it is final.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from agentbus.protocol.ledger_entry import MOST_PLACES, Entry, NoEntry, Record, Setbacks

_LONGEST_RETRY_S: Final = 3600.0
"""The longest backoff: `retry_backoff_seconds` is doubled up to this."""

_OWN_FAULT: Final = 3
"""How often a task fails in a place where others succeed before it is its own fault: twice may be chance."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The task has no owner, or its lease has expired: claim it as this attempt, if the key is still at `revision`."""

    base: Entry
    revision: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Republish:
    """The task has its result: publish it again in case it is not in the inbox, ack, and run nothing."""

    record: Record


@dataclass(frozen=True, slots=True)
class SettleCancelled:
    """A coordinator requested a cancel, and no worker has the task: settle it without a run."""

    base: Entry
    revision: int


@dataclass(frozen=True, slots=True)
class SettleExhausted:
    """The task has no attempts left: settle it as failed."""

    base: Entry
    revision: int


@dataclass(frozen=True, slots=True)
class Defer:
    """Another worker holds the lease, or the retry is not due: nak the delivery, to decide again later."""


@dataclass(frozen=True, slots=True)
class CommitOutbox:
    """The claim of the outcome is still in the ledger, or may be entered there again: commit the outcome on top of it.

    Then publish it. `revision` is what the ledger has now.
    """

    base: Entry
    revision: int


Decision: TypeAlias = Claim | Republish | SettleCancelled | SettleExhausted | Defer | CommitOutbox


@dataclass(frozen=True, slots=True)
class Policy:
    """How many attempts a task has, and whether a task of a lost worker is retried."""

    max_attempts: int = 3
    retry_lost: bool = True


def on_delivery(
    found: Record | NoEntry, new_entry: Entry, *, wait_s: float, policy: Policy, finished: bool = False
) -> Decision:
    """Decide what to do with a delivered task.

    Args:
        found: the ledger entry, or that there is none.
        new_entry: the entry for a task without one; only publishers of agentbus write entries.
        wait_s: seconds until the lease in `found` expires, or the retry is due; 0 or less if it can be claimed.
        finished: whether an outbox of this machine holds the outcome of the very claim in `found`.
    """
    if isinstance(found, NoEntry):
        return Claim(new_entry, found.revision, attempt=1)
    entry = found.entry
    if entry.result is not None:
        return Republish(found)
    if entry.state == "working" and finished:
        return CommitOutbox(entry, found.revision)
    if entry.state == "working" and wait_s > 0:
        return Defer()
    if entry.cancel is not None:
        return SettleCancelled(entry, found.revision)
    if wait_s > 0:
        return Defer()
    if entry.attempt >= policy.max_attempts or (entry.state == "working" and not policy.retry_lost):
        return SettleExhausted(entry, found.revision)
    return Claim(entry, found.revision, attempt=entry.attempt + 1)


@dataclass(frozen=True, slots=True)
class RepublishOutbox:
    """The outcome was committed: publish it again under its id."""

    record: Record


@dataclass(frozen=True, slots=True)
class DropOutbox:
    """The outcome must not be sent: another worker has the task, or the duplicate window is over."""

    reason: str


def on_outbox(
    found: Record | NoEntry, *, nonce: str, result_id: str, expired: bool, base: Entry | None = None
) -> CommitOutbox | RepublishOutbox | DropOutbox:
    """Decide what to do with an outcome that lies in the outbox.

    Args:
        found: the ledger entry of its task.
        nonce: the nonce of the claim under which it was made.
        result_id: the id of its result.
        expired: whether it is older than the server's duplicate window for results.
        base: the entry of its claim, if the ledger went while no other worker could have the task.
    """
    if isinstance(found, NoEntry):
        if base is not None and not expired:
            return CommitOutbox(base, found.revision)
        return DropOutbox("the ledger does not know the task any more")
    entry = found.entry
    if entry.terminal:
        if entry.result_id != result_id:
            return DropOutbox("the task has another result")
        return DropOutbox("it is too old to be published again") if expired else RepublishOutbox(found)
    if entry.state == "working" and entry.claim is not None and entry.claim.nonce == nonce:
        return CommitOutbox(entry, found.revision)
    return DropOutbox("another worker has the task")


@dataclass(frozen=True, slots=True)
class EndLease:
    """The claim of a dead worker is in the ledger: end its lease on top of `record`, then return its delivery."""

    record: Record


@dataclass(frozen=True, slots=True)
class ReturnDelivery:
    """No worker has the task: return the delivery of the worker that died, so that the next one gets it at once."""


@dataclass(frozen=True, slots=True)
class LeaveClaim:
    """Another worker has the task and its delivery, or may have them: send nothing."""


def on_left_claim(found: Record | NoEntry, *, nonce: str) -> EndLease | ReturnDelivery | LeaveClaim:
    """Decide what to do with a task that a worker held when it died, once no process of it is left.

    Args:
        found: the ledger entry of the task.
        nonce: the nonce of the claim that the dead worker had written, or was about to write.
    """
    if isinstance(found, NoEntry):
        return LeaveClaim()  # a ledger that was made anew knows no owners
    if found.entry.state != "working" or found.entry.claim is None:
        return ReturnDelivery()
    claim = found.entry.claim
    if claim.nonce == nonce:
        return EndLease(found)
    return ReturnDelivery() if claim.lease_s == 0 else LeaveClaim()


def on_setback(
    earlier: Setbacks | None, *, place: str, code: str, now: datetime, limit_s: float, others_succeed: bool
) -> Setbacks | None:
    """Decide what a failure for a reason of the machine or the account means for the task that met it.

    Returns the setbacks with which it goes back. None if it fails: no worker could do it for `limit_s`, or it is its
    own fault, because in one place it failed, others succeeded, and it failed again, time after time.

    Args:
        earlier: those before this one.
        place: where it could not be done.
        now: the server's time.
        others_succeed: whether other tasks have succeeded in this place since this one failed there last: their
            commands started or, for a fault of the account, their agents worked.
    """
    if earlier is None:
        return Setbacks(count={place: 1}, code=code, since=now.isoformat())
    count = dict(earlier.count)
    here = count.pop(place, 0)
    if _seconds_since(earlier.since, now) > limit_s or (others_succeed and here >= _OWN_FAULT):
        return None
    kept = list(count.items())[-(MOST_PLACES - 1) :]
    return Setbacks(
        count={**dict(kept), place: here + 1 if others_succeed or not here else here}, code=code, since=earlier.since
    )


def _seconds_since(text: str, now: datetime) -> float:
    """Return the seconds since a time that a worker wrote; 0 if it is none."""
    try:
        return (now - datetime.fromisoformat(text)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def retry_pause_s(attempt: int, *, base_s: float, jitter: float, after_s: float = 0) -> float:
    """Return the backoff before the next attempt: doubled for each attempt, at most an hour.

    Args:
        attempt: the number of the failed attempt, from 1.
        base_s: `retry_backoff_seconds`.
        jitter: a factor around 1, so that tasks that failed together are not retried together.
        after_s: when the model's server answers again, if it said so: no attempt is made before.
    """
    doublings = min(attempt - 1, 16)  # a second doubled 16 times is over an hour; larger powers overflow
    return min(max(base_s * 2**doublings * jitter, after_s), _LONGEST_RETRY_S)
