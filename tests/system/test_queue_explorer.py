"""Publication, loss and hand-back, explored in every order in which their steps can happen."""

import pytest

from system.queue_explorer import Fault, QueueExplorer


@pytest.mark.parametrize(
    "number",
    [1, pytest.param(2, marks=pytest.mark.long)],
    ids=["one of everything", "two purges and two deaths"],
)
def test_no_order_of_events_leaves_a_task_that_is_queued_and_never_ends(number: int):
    report = QueueExplorer(purges=number, deaths=number).explore()
    assert not report.faults, report.faults[0]
    assert report.endings == {"completed", "failed", "taken back"}
    assert report.states > 40_000


@pytest.mark.parametrize("requeues", [False, True], ids=["two publishers", "a publisher and a dead letter"])
def test_no_order_of_events_settles_a_task_that_was_left_without_its_message_and_stored_again(requeues: bool):
    report = QueueExplorer(left=True, requeues=requeues, purges=0).explore()
    assert not report.faults, report.faults[0]
    assert report.endings == {"completed", "failed"}
    assert report.states > 4_000


@pytest.mark.parametrize(
    ("fault", "requeues"), [(Fault.SILENT_LOOK, False), (Fault.SILENT_REQUEUE, True)], ids=["a look", "a dead letter"]
)
def test_the_explorer_detects_who_does_not_write_the_entry_of_a_task_that_was_left(fault: Fault, requeues: bool):
    report = QueueExplorer(fault, left=True, requeues=requeues, purges=0).explore()
    assert "settles as lost what a publisher was told to be queued" in report.faults[0]


@pytest.mark.parametrize(
    ("fault", "symptom"),
    [
        (Fault.CUT, "queued and lies nowhere"),
        (Fault.TRUST_DUPLICATE, "it lies nowhere"),
        (Fault.SAME_ID, "it lies nowhere"),
        (Fault.SILENT_STORE, "settles as lost what a publisher was told to be queued"),
        (Fault.NO_READER, "nothing leads to an end"),
        (Fault.NO_BOUND, "settles as lost what a publisher was told to be queued"),
        (Fault.NO_WALK, "settles as lost what a publisher was told to be queued"),
        (Fault.NO_REVISION, "settles as lost what a publisher was told to be queued"),
    ],
    ids=lambda value: value.value if isinstance(value, Fault) else "",
)
def test_the_explorer_detects_each_broken_rule_of_the_queue(fault: Fault, symptom: str):
    report = QueueExplorer(fault).explore()
    assert report.faults
    assert symptom in report.faults[0]
