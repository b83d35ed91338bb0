"""The settlement, explored in every order in which its steps can happen."""

import pytest

from system.explorer import Explorer, Flaw, Report

pytestmark = pytest.mark.posix("explores the settling of workers")


def first_fault(report: Report) -> str:
    return next(
        iter(report.two_results + report.unconfirmed + report.run_again + report.side_by_side + report.stuck), ""
    )


def calm(flaw: Flaw, *, refusals: int = 0, setbacks: int = 0, one_machine: bool = False) -> Report:
    """Explore what happens without deaths, lost answers and cancel requests, while leases last."""
    explorer = Explorer(
        flaw,
        crashes=0,
        losses=0,
        forgets=0,
        cancels=0,
        refusals=refusals,
        setbacks=setbacks,
        patient=True,
        one_machine=one_machine,
    )
    return explorer.explore()


@pytest.mark.parametrize(
    "foreign",
    [False, pytest.param(True, marks=pytest.mark.long)],
    ids=["published by agentbus", "published by a stranger"],
)
@pytest.mark.gate("one of everything")
@pytest.mark.parametrize(
    ("crashes", "losses", "forgets", "cancels"),
    [(1, 1, 1, 1), (2, 1, 0, 0), (2, 0, 1, 0)],
    ids=["one of everything", "two crashes, a lost answer", "two crashes, a forgotten ack"],
)
def test_no_order_of_events_leads_to_two_results_or_to_none(
    crashes: int, losses: int, forgets: int, cancels: int, foreign: bool
):
    report = Explorer(crashes=crashes, losses=losses, forgets=forgets, cancels=cancels).explore(foreign=foreign)
    assert report.sound, first_fault(report)
    assert report.states > 10_000
    assert {"completed", "failed"} <= report.endings
    assert ("cancelled" in report.endings) == bool(cancels)


@pytest.mark.parametrize(
    "foreign",
    [False, pytest.param(True, marks=pytest.mark.long)],
    ids=["published by agentbus", "published by a stranger"],
)
@pytest.mark.long
@pytest.mark.parametrize(("crashes", "losses"), [(1, 0), (0, 1)], ids=["a crash", "a lost answer"])
def test_a_lagging_replica_does_not_break_the_settlement(crashes: int, losses: int, foreign: bool):
    explorer = Explorer(crashes=crashes, losses=losses, forgets=1, cancels=1, lags=1)
    report = explorer.explore(foreign=foreign)
    assert report.sound, first_fault(report)
    assert {"completed", "cancelled"} <= report.endings


@pytest.mark.parametrize(
    ("crashes", "losses"),
    [(0, 1), pytest.param(1, 0, marks=pytest.mark.long)],
    ids=["a lost answer", "a crash"],
)
def test_a_ledger_that_is_made_anew_before_the_end_of_a_task_leads_to_one_result(crashes: int, losses: int):
    report = Explorer(crashes=crashes, losses=losses, forgets=0, cancels=0, wipes=1).explore()
    assert report.sound, first_fault(report)
    assert report.states > 30_000
    assert {"completed", "failed"} == report.endings


@pytest.mark.parametrize("one_machine", [False, True], ids=["two machines", "one machine"])
@pytest.mark.parametrize(
    ("crashes", "losses", "forgets", "cancels"),
    [(0, 0, 0, 0), (0, 1, 1, 0), pytest.param(1, 1, 1, 1, marks=pytest.mark.long)],
    ids=["refusals alone", "a lost answer, a forgotten ack", "one of everything"],
)
def test_a_refused_outcome_is_settled_once_and_its_command_runs_once(
    crashes: int, losses: int, forgets: int, cancels: int, one_machine: bool
):
    report = Explorer(
        crashes=crashes,
        losses=losses,
        forgets=forgets,
        cancels=cancels,
        refusals=2,
        patient=True,
        one_machine=one_machine,
    ).explore()
    assert report.sound, first_fault(report)
    assert {"completed"} <= report.endings


@pytest.mark.parametrize("crashes", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_refused_outcome_makes_no_second_result_though_leases_expire_at_any_time(crashes: int):
    report = Explorer(crashes=crashes, losses=0, forgets=1, cancels=0, refusals=1).explore()
    assert report.sound, first_fault(report)


def test_the_explorer_detects_that_a_living_worker_forgets_what_was_refused():
    report = calm(Flaw.FORGETS_REFUSED, refusals=1)
    assert report.run_again, f"found instead: {first_fault(report)}"
    assert "may not write" in first_fault(report)


def test_the_explorer_detects_that_a_worker_runs_what_another_one_on_its_machine_has_finished():
    report = calm(Flaw.OWN_OUTBOX_ONLY, refusals=1, one_machine=True)
    assert report.run_again, f"found instead: {first_fault(report)}"


@pytest.mark.gate("two crashes")
@pytest.mark.parametrize(
    ("crashes", "losses", "forgets", "cancels"),
    [(2, 0, 0, 0), (3, 0, 0, 1), (2, 1, 1, 0)],
    ids=["two crashes", "three crashes, a cancel request", "a lost answer, a forgotten ack"],
)
def test_a_worker_that_starts_again_frees_what_it_was_at_work_on_though_no_lease_runs_out(
    crashes: int, losses: int, forgets: int, cancels: int
):
    report = Explorer(crashes=crashes, losses=losses, forgets=forgets, cancels=cancels, at_once=True).explore()
    assert report.sound, first_fault(report)
    assert {"completed", "failed"} <= report.endings


@pytest.mark.parametrize(
    ("flaw", "symptom"),
    [
        (Flaw.NO_RECORD, "stuck"),
        (Flaw.FREES_TOO_EARLY, "side_by_side"),
        (Flaw.RETURNS_FIRST, "stuck"),
        (Flaw.RETURNS_ONLY_ITS_OWN, "stuck"),
    ],
    ids=lambda value: value.value if isinstance(value, Flaw) else "",
)
def test_the_explorer_detects_how_a_worker_that_starts_again_may_go_wrong(flaw: Flaw, symptom: str):
    report = Explorer(flaw, crashes=2, losses=0, forgets=0, cancels=0, at_once=True).explore()
    assert getattr(report, symptom), f"found instead: {first_fault(report)}"


@pytest.mark.parametrize("crashes", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_task_that_machines_could_not_start_gets_its_result(crashes: int):
    explorer = Explorer(crashes=crashes, losses=1, forgets=0, cancels=1, setbacks=2, patient=True)
    report = explorer.explore()
    assert report.sound, first_fault(report)
    assert {"completed", "cancelled"} <= report.endings


def test_the_explorer_detects_workers_that_stay_paused():
    report = calm(Flaw.PAUSED_FOR_GOOD, setbacks=2)
    assert report.stuck, f"found instead: {first_fault(report)}"
    assert first_fault(report).count("cannot start the command") == 2


def test_the_explorer_detects_a_write_based_on_a_lagging_replica():
    report = Explorer(Flaw.NO_REVISION, lags=1).explore()
    assert not report.sound


@pytest.mark.parametrize(
    ("flaw", "symptom"),
    [
        (Flaw.ACK_FIRST, "stuck"),
        (Flaw.NO_FENCE, "unconfirmed"),
        (Flaw.ID_OF_PUBLICATION, "two_results"),
        (Flaw.SHORT_MEMORY, "two_results"),
        (Flaw.BLIND_OUTBOX, "unconfirmed"),
        pytest.param(Flaw.ACK_SETTLED, "stuck", marks=pytest.mark.long),
        (Flaw.IGNORE_REFUSAL, "unconfirmed"),
        (Flaw.NO_TAKEOVER, "stuck"),
    ],
    ids=lambda value: value.value if isinstance(value, Flaw) else "",
)
def test_the_explorer_detects_each_broken_rule(flaw: Flaw, symptom: str):
    report = Explorer(flaw).explore()
    assert not report.sound
    assert getattr(report, symptom), f"found instead: {first_fault(report)}"
