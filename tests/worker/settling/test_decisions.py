"""The decisions of the worker: what a delivery calls for, and what an outcome on disk calls for."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from agentbus.protocol.ledger_entry import CancelRequest, Entry, NoEntry, Record, lease_ended
from agentbus.protocol.ledger_entry import Claim as ClaimRecord
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.settling.decisions import (
    Claim,
    CommitOutbox,
    Decision,
    Defer,
    DropOutbox,
    EndLease,
    LeaveClaim,
    Policy,
    Republish,
    RepublishOutbox,
    ReturnDelivery,
    SettleCancelled,
    SettleExhausted,
    on_delivery,
    on_left_claim,
    on_outbox,
    retry_pause_s,
)

REVISION = 42
FRESH = Entry(state="queued", digest="fresh", sender="agent-main", inbox="main", task_type="t")
CANCEL = CancelRequest(by="main", at="2026-05-18T00:00:00+00:00")
MOST = 3


def claim_of(nonce: str = "mine", renewals: int = 0) -> ClaimRecord:
    return ClaimRecord(worker="w", nonce=nonce, renewals=renewals, lease_s=30, since="2026-05-18T00:00:00+00:00")


def queued(**changes: Any) -> Entry:
    return FRESH.model_copy(update={"digest": "known", **changes})


def working(nonce: str = "mine", *, renewals: int = 0, attempt: int = 1, **changes: Any) -> Entry:
    return queued(**{"state": "working", "claim": claim_of(nonce, renewals), "attempt": attempt, **changes})


def settled(nonce: str = "mine", *, status: str = "completed", result_id: str = "", **changes: Any) -> Entry:
    result = {"id": result_id or f"result-code-t-{nonce}", "status": status}
    return working(nonce, state=status, result=result, **changes)


def record(entry: Entry, revision: int = REVISION) -> Record:
    return Record(TaskKey("code", "t"), entry, revision, datetime(2026, 5, 18, tzinfo=UTC))


def decide(found: Record | NoEntry, *, lease_over: bool = False) -> Decision:
    owned = isinstance(found, Record) and found.entry.state == "working"
    wait_s = 5.0 if owned and not lease_over else 0.0
    return on_delivery(found, FRESH, wait_s=wait_s, policy=Policy(max_attempts=MOST))


# -- a delivery -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [0, 17])
@pytest.mark.parametrize("lease_over", [False, True])
def test_a_task_without_a_ledger_entry_is_claimed_with_one_of_its_own(revision: int, lease_over: bool):
    assert decide(NoEntry(revision), lease_over=lease_over) == Claim(FRESH, revision, attempt=1)


@pytest.mark.parametrize("lease_over", [False, True])
def test_a_queued_task_is_claimed_with_its_ledger_entry(lease_over: bool):
    assert decide(record(queued()), lease_over=lease_over) == Claim(queued(), REVISION, attempt=1)


@pytest.mark.parametrize(("attempt", "next_attempt"), [(1, 2), (MOST - 1, MOST)])
def test_a_released_task_is_claimed_as_the_next_attempt(attempt: int, next_attempt: int):
    entry = queued(attempt=attempt)
    assert decide(record(entry)) == Claim(entry, REVISION, attempt=next_attempt)


@pytest.mark.parametrize("attempt", [1, MOST, MOST + 1])
@pytest.mark.parametrize("cancel", [None, CANCEL])
def test_a_task_with_a_valid_lease_is_left_alone_whatever_else_is_true_of_it(
    attempt: int, cancel: CancelRequest | None
):
    assert decide(record(working("other", attempt=attempt, cancel=cancel))) == Defer()


def test_a_task_with_an_expired_lease_is_taken_over_as_the_next_attempt():
    entry = working("other", attempt=1, renewals=7)
    assert decide(record(entry), lease_over=True) == Claim(entry, REVISION, attempt=2)


@pytest.mark.parametrize("attempt", [MOST, MOST + 1])
def test_a_task_without_attempts_left_is_settled_as_failed(attempt: int):
    entry = working("other", attempt=attempt)
    assert decide(record(entry), lease_over=True) == SettleExhausted(entry, REVISION)


def test_a_task_with_an_expired_lease_is_settled_as_failed_if_lost_workers_are_not_retried():
    policy = Policy(max_attempts=MOST, retry_lost=False)
    lost, given_back = working("other", attempt=1), queued(attempt=1)
    assert on_delivery(record(lost), FRESH, wait_s=0, policy=policy) == SettleExhausted(lost, REVISION)
    assert on_delivery(record(given_back), FRESH, wait_s=0, policy=policy) == Claim(given_back, REVISION, attempt=2)


@pytest.mark.parametrize("wait_s", [0.001, 60])
def test_a_task_whose_next_attempt_is_not_due_is_left_alone_but_a_cancel_request_does_not_wait(wait_s: float):
    waiting = queued(attempt=1)
    assert on_delivery(record(waiting), FRESH, wait_s=wait_s, policy=Policy(MOST)) == Defer()
    cancelled = queued(attempt=1, cancel=CANCEL)
    assert on_delivery(record(cancelled), FRESH, wait_s=wait_s, policy=Policy(MOST)) == SettleCancelled(
        cancelled, REVISION
    )
    done = settled("other")
    assert isinstance(on_delivery(record(done), FRESH, wait_s=wait_s, policy=Policy(MOST)), Republish)


@pytest.mark.parametrize("attempt", [0, 1, MOST])
def test_a_cancel_request_settles_a_task_without_an_owner_even_after_the_last_attempt(attempt: int):
    waiting, abandoned = queued(attempt=attempt, cancel=CANCEL), working("other", attempt=attempt, cancel=CANCEL)
    assert decide(record(waiting)) == SettleCancelled(waiting, REVISION)
    assert decide(record(abandoned), lease_over=True) == SettleCancelled(abandoned, REVISION)


@pytest.mark.parametrize("status", ["completed", "failed", "needs_approval", "cancelled"])
@pytest.mark.parametrize("lease_over", [False, True])
@pytest.mark.parametrize("changes", [{}, {"cancel": CANCEL}, {"attempt": MOST + 1}, {"inbox": "doc"}])
def test_a_settled_task_is_never_run_again_its_result_is_published_again(
    status: str, lease_over: bool, changes: dict[str, Any]
):
    entry = settled("other", status=status, **changes)
    decision = decide(record(entry), lease_over=lease_over)
    assert decision == Republish(record(entry))


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
@pytest.mark.parametrize("changes", [{}, {"cancel": CANCEL}, {"attempt": MOST}, {"attempt": MOST + 1}])
def test_a_task_whose_outcome_lies_on_this_machine_is_committed_whatever_else_the_entry_says(
    wait_s: float, changes: dict[str, Any]
):
    entry = working("mine", **changes)
    policy = Policy(MOST, retry_lost=False)
    decision = on_delivery(record(entry), FRESH, wait_s=wait_s, policy=policy, finished=True)
    assert decision == CommitOutbox(entry, REVISION)


RELEASED = working(state="queued", attempt=0)


# -- an outcome that was found on disk --------------------------------------------------------------------------


def replay(found: Entry | None, *, expired: bool = False) -> CommitOutbox | RepublishOutbox | DropOutbox:
    ledger = NoEntry(REVISION) if found is None else record(found)
    return on_outbox(ledger, nonce="mine", result_id="result-code-t-mine", expired=expired)


@pytest.mark.parametrize("expired", [False, True])
@pytest.mark.parametrize("changes", [{}, {"renewals": 7}, {"cancel": CANCEL}])
def test_an_outcome_whose_claim_is_still_in_the_ledger_is_committed(expired: bool, changes: dict[str, Any]):
    assert replay(working("mine", **changes), expired=expired) == CommitOutbox(working("mine", **changes), REVISION)


def test_a_committed_outcome_is_published_again_within_the_duplicate_window():
    assert replay(settled("mine")) == RepublishOutbox(record(settled("mine")))
    assert isinstance(replay(settled("mine"), expired=True), DropOutbox)


@pytest.mark.parametrize("expired", [False, True])
@pytest.mark.parametrize(
    "found",
    [
        pytest.param(None, id="nothing"),
        pytest.param(queued(), id="queued"),
        pytest.param(RELEASED, id="released under the same claim"),
        pytest.param(working("other"), id="claimed by another"),
        pytest.param(settled("other"), id="settled by another"),
        pytest.param(settled("mine", result_id="result-code-t-other"), id="settled by another over my claim"),
    ],
)
def test_an_outcome_that_must_not_be_sent_is_dropped_with_a_reason(found: Entry | None, expired: bool):
    decision = replay(found, expired=expired)
    assert isinstance(decision, DropOutbox)
    assert decision.reason


def test_an_outcome_is_entered_anew_only_where_its_claim_was_alone_and_its_id_is_remembered():
    base, unknown = working("mine"), NoEntry(REVISION)
    again = partial(on_outbox, unknown, nonce="mine", result_id="result-code-t-mine", base=base)
    assert again(expired=False) == CommitOutbox(base, REVISION)
    assert isinstance(again(expired=True), DropOutbox)
    assert isinstance(replay(None), DropOutbox)
    other = on_outbox(record(queued()), nonce="mine", result_id="result-code-t-mine", expired=False, base=base)
    assert isinstance(other, DropOutbox)


# -- the pause before another attempt ---------------------------------------------------------------------------


def test_the_pause_doubles_with_each_attempt_and_ends_at_an_hour():
    pauses = [retry_pause_s(attempt, base_s=10, jitter=1) for attempt in range(1, 12)]
    assert pauses[:4] == [10, 20, 40, 80]
    assert pauses[-1] == 3600


@pytest.mark.parametrize("attempt", [17, 1_100, 10**9])
def test_the_pause_of_any_attempt_is_at_most_an_hour(attempt: int):
    assert retry_pause_s(attempt, base_s=3600, jitter=1.5) == 3600
    assert retry_pause_s(attempt, base_s=0, jitter=0.5) == 0


# -- a claim of a worker that died ------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"renewals": 7}, {"cancel": CANCEL}, {"attempt": MOST}])
def test_the_lease_of_a_dead_worker_is_ended_while_the_ledger_has_its_claim(changes: dict[str, Any]):
    found = record(working("mine", **changes))
    assert on_left_claim(found, nonce="mine") == EndLease(found)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(record(queued()), id="queued"),
        pytest.param(record(RELEASED), id="released under the same claim"),
        pytest.param(record(settled("mine")), id="settled"),
        pytest.param(record(settled("another")), id="settled by another worker"),
        pytest.param(record(lease_ended(working("mine"), "new")), id="its lease is ended already"),
    ],
)
def test_the_delivery_of_a_dead_worker_is_returned_while_no_worker_has_the_task(found: Record):
    assert on_left_claim(found, nonce="mine") == ReturnDelivery()


@pytest.mark.parametrize("found", [record(working("another")), NoEntry(REVISION)], ids=["working", "a new ledger"])
def test_nothing_is_sent_for_a_task_that_another_worker_has_or_may_have(found: Record | NoEntry):
    assert on_left_claim(found, nonce="mine") == LeaveClaim()


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, Policy(MOST)),
        ({"attempt": MOST}, Policy(MOST)),
        ({}, Policy(MOST, retry_lost=False)),
        ({"cancel": CANCEL}, Policy(MOST)),
    ],
)
def test_a_lease_that_was_ended_is_one_that_has_run_out(changes: dict[str, Any], policy: Policy):
    entry = working("mine", **changes)
    ended = lease_ended(entry, "new")
    assert ended.claim == claim_of("new").model_copy(update={"lease_s": 0})
    run_out = on_delivery(record(entry), FRESH, wait_s=0, policy=policy)
    assert type(on_delivery(record(ended), FRESH, wait_s=0, policy=policy)) is type(run_out)
    assert not isinstance(run_out, Defer)
