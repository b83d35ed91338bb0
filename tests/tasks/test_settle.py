"""Settling a task: what a refused compare-and-set means, and that only what is committed is published."""

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from agentbus.protocol.ledger_entry import CancelRequest, Claim, Entry, NoEntry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.settle import Adopt, Lost, Verdict, Won, on_refusal

REVISION = 42
CANCEL = CancelRequest(by="main", at="2026-05-18T00:00:00+00:00")


def queued(**changes: Any) -> Entry:
    fresh = Entry(state="queued", digest="known", sender="agent-main", inbox="main", task_type="t")
    return fresh.model_copy(update=changes)


def working(nonce: str = "mine", *, renewals: int = 0, attempt: int = 1, **changes: Any) -> Entry:
    claim = Claim(worker="w", nonce=nonce, renewals=renewals, lease_s=30, since="2026-05-18T00:00:00+00:00")
    return queued(**{"state": "working", "claim": claim, "attempt": attempt, **changes})


def settled(nonce: str = "mine", *, status: str = "completed", result_id: str = "", **changes: Any) -> Entry:
    result = {"id": result_id or f"result-code-t-{nonce}", "status": status}
    return working(nonce, state=status, result=result, **changes)


def refused(tried: Entry, found: Entry | None) -> Verdict:
    return on_refusal(
        tried,
        NoEntry(REVISION)
        if found is None
        else Record(TaskKey("code", "t"), found, REVISION, datetime(2026, 5, 18, tzinfo=UTC)),
    )


GIVEN_BACK = working(state="queued", attempt=0)


@pytest.mark.parametrize(
    "tried",
    [working(), working(renewals=3), settled(), GIVEN_BACK],
    ids=["claim", "renewal", "commit", "release"],
)
def test_a_write_that_is_found_as_it_was_meant_was_won_and_only_its_answer_lost(tried: Entry):
    assert refused(tried, tried) == Won(tried, REVISION)


@pytest.mark.parametrize(
    "tried",
    [working(), working(renewals=3), settled(), GIVEN_BACK],
    ids=["claim", "renewal", "commit", "release"],
)
@pytest.mark.parametrize(
    "found",
    [
        pytest.param(None, id="nothing"),
        pytest.param(queued(), id="queued"),
        pytest.param(queued(attempt=1), id="released"),
        pytest.param(working("other"), id="claimed by another"),
        pytest.param(working("other", renewals=9, attempt=2), id="taken over"),
        pytest.param(settled("other"), id="settled by another"),
        pytest.param(settled("other", status="cancelled"), id="cancelled by another"),
        # One that settles a task unrun keeps the owner's claim in the entry at most; the result id tells them apart.
        pytest.param(settled("mine", result_id="result-code-t-other"), id="settled by another over my claim"),
    ],
)
def test_a_task_that_somebody_else_has_or_nobody_is_lost(tried: Entry, found: Entry | None):
    assert isinstance(refused(tried, found), Lost)


@pytest.mark.parametrize("tried", [working(renewals=3), settled(renewals=3)], ids=["renewal", "commit"])
@pytest.mark.parametrize(
    "found",
    [
        pytest.param(working(renewals=2), id="an earlier renewal"),
        pytest.param(working(renewals=2, cancel=CANCEL), id="a cancel request on top of it"),
        pytest.param(working(renewals=0), id="the claim"),
    ],
)
def test_an_earlier_write_of_the_same_claim_is_taken_as_the_new_base(tried: Entry, found: Entry):
    assert refused(tried, found) == Adopt(found, REVISION)


def test_a_commit_that_met_a_later_renewal_of_its_own_claim_goes_on_from_there():
    found = working(renewals=5)
    assert refused(settled(renewals=3), found) == Adopt(found, REVISION)


def test_a_renewal_that_meets_its_own_cancel_request_has_been_stored_and_tells_of_the_request():
    found = working(renewals=3, cancel=CANCEL)
    assert refused(working(renewals=3), found) == Won(found, REVISION)


def test_a_renewal_that_meets_its_own_commit_sends_nothing_more():
    assert refused(working(renewals=3), settled(renewals=3)) == Lost()


def test_a_commit_is_won_by_its_result_id_and_by_nothing_else():
    mine = settled("mine", result_id="result-a")
    assert refused(mine, settled("other", result_id="result-a")) == Won(
        settled("other", result_id="result-a"), REVISION
    )
    assert refused(mine, settled("mine", result_id="result-b")) == Lost()
    assert refused(mine, mine.model_copy(update={"result": None})) == Lost()


def test_a_write_without_a_claim_is_never_taken_for_won():
    assert refused(queued(), queued()) == Lost()


@pytest.mark.parametrize("renewals", [0, 1])
def test_no_verdict_hands_over_an_entry_that_another_claim_wrote(renewals: int):
    """Over all pairs of states: who goes on, goes on from an entry of its own."""
    entries = [queued(), queued(cancel=CANCEL)]
    for nonce, number in itertools.product(("mine", "other"), range(3)):
        entries += [working(nonce, renewals=number), working(nonce, renewals=number, cancel=CANCEL)]
        entries += [settled(nonce, renewals=number), settled(nonce, renewals=number, status="cancelled")]
    kinds: set[type[Any]] = set()
    for tried in (working(renewals=renewals), settled(renewals=renewals)):
        for found in entries:
            verdict = refused(tried, found)
            kinds.add(type(verdict))
            if not isinstance(verdict, Lost):
                assert verdict.entry.claim is not None
                assert verdict.entry.claim.nonce == "mine"
                assert not verdict.entry.terminal or isinstance(verdict, Won)
    assert kinds == {Won, Adopt, Lost}
