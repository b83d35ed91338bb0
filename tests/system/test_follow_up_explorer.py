"""Follow-ups, explored in every order in which their steps and those of their workers can happen."""

import pytest

from system.follow_up_explorer import Flaw, FollowUpExplorer

pytestmark = pytest.mark.posix("explores the follow-ups of workers")


@pytest.mark.gate("a crash, a place that is gone", "a lease, a cancellation")
@pytest.mark.parametrize(
    ("crashes", "expiries", "cancels", "removals"),
    [(1, 0, 0, 1), (0, 1, 1, 0), (1, 1, 1, 1), (2, 0, 0, 1)],
    ids=["a crash, a place that is gone", "a lease, a cancellation", "one of everything", "two crashes"],
)
def test_no_order_of_events_resumes_a_session_twice_or_elsewhere_or_leaves_a_follow_up(
    crashes: int, expiries: int, cancels: int, removals: int
):
    report = FollowUpExplorer(crashes=crashes, expiries=expiries, cancels=cancels, removals=removals).explore()
    assert not report.faults, report.faults[0]
    gone = {"fresh", "session_gone"} if removals or cancels else set[str]()
    assert report.endings == {"completed", "resumed", *gone, *({"cancelled"} if cancels else ())}


@pytest.mark.parametrize(
    ("flaw", "symptom"),
    [
        (Flaw.CLAIMS_ANYWHERE, "a session is resumed at another place"),
        (Flaw.NO_LOCK, "two runs are in one session"),
        (Flaw.LEAVES_COMMANDS, "two runs are in one session"),
        (Flaw.GIVES_UP_EARLY, "a follow-up gives up a place that lives"),
        (Flaw.NEVER_GIVES_UP, "nothing leads to an end"),
        (Flaw.DOES_NOT_WAIT, "a follow-up gives up a task that has no result yet"),
    ],
    ids=lambda value: value.value if isinstance(value, Flaw) else "",
)
def test_the_explorer_detects_each_broken_rule_of_follow_ups(flaw: Flaw, symptom: str):
    report = FollowUpExplorer(flaw).explore()
    assert report.faults
    assert report.faults[0].endswith(f"=> {symptom}"), report.faults[0]
