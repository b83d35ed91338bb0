"""The storm, in short; and that it can tell a good worker from a bad one. `make chaos` runs the long one."""

import random
import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.claim_records import SUFFIX, ClaimRecord, ClaimRecords
from agentbus_worker.identity import Place
from system.chaos.fleet import UNANSWERED, holds_unanswered_claims
from system.chaos.plan import PlannedTask, blocked, broken, short, unrenewed
from system.chaos.reruns import BOTH, CUT, DEATH, NONE, REFUSAL, TERM, Execution, reruns
from system.chaos.storm import run_storm
from system.chaos.troubles import Trouble, TroubleKind
from system.chaos.verdict import check

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    pytest.mark.posix("a storm over workers"),
]


@pytest.mark.long
async def test_every_task_has_one_result_after_a_storm():
    account = await run_storm(short(seed=random.randrange(1_000_000)))
    assert not account.wrong, f"\n{account.table()}\n{account.faults()}"


@pytest.mark.long
async def test_the_storm_reports_a_worker_that_acknowledges_before_it_has_a_result():
    for seed in (1, 2, 3):  # on a busy machine the faults of one storm may all miss the moments that hurt
        account = await run_storm(broken(seed=seed), keep=False)
        if account.lost:
            break
    assert account.lost, f"\n{account.table()}\n{account.faults()}"
    assert all(f"lost: {name}" in account.wrong for name in account.lost)
    assert account.numbers["left on the bus"] == 0, "they are lost, not late"


@pytest.mark.long
async def test_the_storm_reports_workers_that_run_a_task_twice_because_none_renews_its_lease():
    again = 0
    for seed in (1, 2, 3):  # on a busy machine no other worker may be free while a task runs without a lease
        account = await run_storm(unrenewed(seed=seed), keep=False)
        if again := account.numbers["run again: without a reason"]:
            break
    assert again, f"\n{account.table()}\n{account.faults()}"
    assert sum(fault.endswith("without a reason") for fault in account.wrong) == again
    assert not account.lost


@pytest.mark.long
async def test_the_storm_reports_workers_that_stand_still_with_their_log():
    for seed in (1, 2, 3):  # a pipe may stand still while its worker has nothing to do
        account = await run_storm(blocked(seed=seed), keep=False)
        if account.numbers["run again: without a reason"]:
            break
    assert account.numbers["run again: without a reason"], f"\n{account.table()}\n{account.faults()}"


async def test_a_task_without_a_result_is_lost_in_the_account(coordinator: Coordinator):
    await set_up(coordinator.bus, ["code"])
    tasks = [PlannedTask(f"chaos-{number}", "code", "instant", number, at_s=0) for number in range(2)]
    await coordinator.publish("code", "x", task_type="chaos", task_id=tasks[0].task_id)
    account = await check(coordinator, coordinator.bus, tasks, [], {})
    assert account.lost == ["chaos-0", "chaos-1"]
    assert {"lost: chaos-0", "lost: chaos-1", "chaos-1: it is not in the ledger", "1 tasks are left on the bus"} <= set(
        account.wrong
    )
    assert "chaos-0: no result; the ledger says queued, attempt 0, claimed by no worker" in account.wrong


def test_a_claim_whose_answer_was_lost_may_stay_on_record_and_no_other_one(tmp_path: Path):
    folder = tmp_path / "claims"
    folder.mkdir()
    log = f"task job-1: {UNANSWERED}; …"

    def may_stay(worker: str, *tasks: str, released: bool = False) -> bool:
        with ClaimRecords(folder, worker, Place()) as records:
            for number, task_id in enumerate(tasks):
                ClaimRecord(records, TaskKey("code", task_id), f"nonce-{number}", "reply").keep(released=released)
        return holds_unanswered_claims(folder / f"{worker}{SUFFIX}", log.count)

    assert may_stay("lost", "job-1")
    assert not may_stay("unknown", "job-1", "job-2")
    assert not may_stay("released", "job-1", released=True)
    (folder / "empty.claims").touch()
    (tmp_path / "outbox").mkdir()
    (folder / "lost.claims").rename(tmp_path / "outbox" / "lost.claims")
    for path in (folder / "empty.claims", tmp_path / "outbox" / "lost.claims"):
        assert not holds_unanswered_claims(path, log.count)


# -- a command that ran twice -----------------------------------------------------------------------------------

LEASE_S = 6.0
FIRST = Execution(10.0, "code-0.1", 1, "t")
SECOND = Execution(20.0, "code-1.1", 2, "t")


def reason(*troubles: Trouble, settled: dict[str, float] | None = None, second: Execution = SECOND) -> str:
    """Why the second run was."""
    [again] = reruns([second, FIRST], troubles, settled or {"t": 21.0}, lease_s=LEASE_S)
    assert (again.earlier, again.later) == (FIRST, second)
    return again.reason


def one(kind: TroubleKind, began: float = 11.0, ended: float | None = None, whom: str = "code-0.1") -> Trouble:
    return Trouble(kind, whom, began, began if ended is None else ended)


def test_a_command_that_ran_once_is_no_second_run_and_one_that_ran_three_times_is_two():
    third = Execution(30.0, "code-2.1", 3, "t")
    assert reruns([FIRST, Execution(11.0, "code-0.1", 1, "other")], [], {}, lease_s=LEASE_S) == []
    assert len(reruns([FIRST, SECOND, third], [], {}, lease_s=LEASE_S)) == 2


def test_a_second_run_without_any_trouble_has_no_reason_and_says_so():
    assert reason() == NONE
    [again] = reruns([FIRST, SECOND], [], {}, lease_s=LEASE_S)
    assert str(again) == ("t was run by code-0.1 (attempt 1) and 10.0 s later by code-1.1 (attempt 2) without a reason")


def test_the_death_or_the_stop_of_the_first_worker_is_a_reason():
    assert reason(one("death")) == DEATH
    assert reason(one("term")) == TERM


@pytest.mark.parametrize("kind", ["death", "term"])
def test_the_end_of_another_process_or_a_later_end_is_no_reason(kind: TroubleKind):
    assert reason(one(kind, whom="code-0.2"), one(kind, whom="code-1.1"), one(kind, whom="code-0.12")) == NONE
    assert reason(one(kind, began=20.5)) == NONE


def test_the_death_of_a_worker_whose_result_was_stored_before_is_no_reason():
    assert reason(one("death", began=15.0), settled={"t": 14.0}) == NONE
    assert reason(one("death", began=13.0), settled={"t": 14.0}) == DEATH


@pytest.mark.parametrize("kind", ["stop", "cut", "server"])
@pytest.mark.parametrize("whom", ["code-0.1", "code-0", ""])
def test_a_worker_that_is_cut_off_until_its_lease_has_run_out_is_a_reason(kind: TroubleKind, whom: str):
    assert reason(one(kind, 11.0, 18.0, whom)) == CUT
    assert reason(one(kind, 11.0, 13.0, whom)) == NONE, "shorter than what is left of the lease"


def test_two_cuts_are_one_if_there_was_no_time_to_renew_between_them():
    assert reason(one("cut", 11.0, 13.0), one("server", 13.5, 16.5, "")) == CUT
    assert reason(one("cut", 11.0, 13.0), one("server", 15.0, 17.0, "")) == NONE


def test_a_cut_that_is_over_long_before_or_lasts_long_only_after_the_second_run_is_no_reason():
    assert reason(one("cut", -10.0, 0.0)) == NONE
    assert reason(one("cut", 19.0, 40.0)) == NONE


def test_a_refusal_is_a_reason_only_if_it_lasts_longer_than_the_lease():
    assert reason(one("refusal", 11.0, 17.5, "code-0")) == REFUSAL
    assert reason(one("refusal", 11.0, 16.5, "code-0")) == NONE
    assert reason(one("refusal", 11.0, 14.0, "code-0"), one("cut", 14.0, 16.5)) == BOTH


def test_a_log_that_is_not_read_is_no_reason():
    assert reason(one("unread", 11.0, 19.0, "code-0")) == NONE


def test_the_first_run_is_that_of_the_earlier_claim_though_it_began_later():
    woken = Execution(9.0, "code-1.1", 2, "t")
    assert reason(one("stop", 4.0, 9.9), second=woken) == CUT
