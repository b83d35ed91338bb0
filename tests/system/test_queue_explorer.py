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
