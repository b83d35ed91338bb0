"""Questions, explored in every order in which their steps can happen."""

import pytest

from system.question_explorer import Flaw, QuestionExplorer

pytestmark = pytest.mark.posix("explores the questions of workers")

_ALWAYS = {"given", "approved", "denied", "late", "completed"}


@pytest.mark.gate("a crash, a lost answer", "a lease", "a stop")
@pytest.mark.parametrize(
    ("crashes", "losses", "expiries", "releases", "cancels"),
    [(1, 1, 0, 0, 0), (0, 0, 1, 0, 1), (0, 1, 0, 1, 0), (1, 0, 1, 1, 0), (1, 1, 1, 0, 1)],
    ids=["a crash, a lost answer", "a lease that runs out, a cancellation", "a stop, a lost answer",
         "each end of a run", "all but one of everything"],
)  # fmt: skip
def test_no_order_of_events_gives_an_answer_twice_or_to_another_operation(
    crashes: int, losses: int, expiries: int, releases: int, cancels: int
):
    explorer = QuestionExplorer(crashes=crashes, losses=losses, expiries=expiries, releases=releases, cancels=cancels)
    report = explorer.explore()
    assert not report.faults, report.faults[0]
    assert report.endings == {
        *_ALWAYS,
        *({"kept for the next attempt"} if crashes or expiries or releases else ()),
        *({"cancelled"} if cancels else ()),
    }


@pytest.mark.parametrize(
    ("flaw", "symptom"),
    [
        (Flaw.GIVES_FIRST, "an agent got another answer than the one that counts"),
        (Flaw.ANY_OPERATION, "an answer was given to another operation"),
        (Flaw.OVERWRITES, "an agent got another answer than the one that counts"),
        (Flaw.DENIES_BY_ITSELF, "an agent got another answer than the one that counts"),
        (Flaw.ASKS_ANEW, "an answer that the entry says was given never was"),
    ],
    ids=lambda value: value.value if isinstance(value, Flaw) else "",
)
def test_the_explorer_detects_each_broken_rule_of_questions(flaw: Flaw, symptom: str):
    report = QuestionExplorer(flaw).explore()
    assert report.faults
    assert report.faults[0].endswith(f"=> {symptom}"), report.faults[0]
