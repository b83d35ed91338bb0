"""Judges each command that a storm ran twice: whether what befell the worker of the first run is a reason for it.

The reasons are those that `docs/design.md` names. Whatever else makes a command run again is a fault of the product.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Final

from system.chaos.troubles import Trouble, TroubleKind, merged

_GAP_S: Final = 1.5
"""A worker that could not renew tries again after a second: two troubles that are no further apart are one for it."""
_LATE_S: Final = 0.5
"""How late a renewal and its answer may be on a busy machine."""

DEATH: Final = "after the death of its worker"
TERM: Final = "given back by a worker that was told to stop"
CUT: Final = "its worker was cut off for longer than the lease"
REFUSAL: Final = "the ledger refused its worker for longer than the lease"
BOTH: Final = "its worker was cut off and refused for longer than the lease"
NONE: Final = "without a reason"
REASONS: Final = (DEATH, TERM, CUT, REFUSAL, BOTH, NONE)

_CUTS: Final[frozenset[TroubleKind]] = frozenset({"stop", "cut", "server"})


@dataclass(frozen=True, slots=True)
class Execution:
    """One start of the agent command, as it put itself on record. `worker` is the process that started it."""

    at: float
    worker: str
    attempt: int
    task_id: str


@dataclass(frozen=True, slots=True)
class Rerun:
    """Two runs of one command, that of the earlier claim first, and why there was a second one."""

    earlier: Execution
    later: Execution
    reason: str

    def __str__(self) -> str:
        first, second = self.earlier, self.later
        return (
            f"{first.task_id} was run by {first.worker} (attempt {first.attempt}) and "
            f"{second.at - first.at:.1f} s later by {second.worker} (attempt {second.attempt}) {self.reason}"
        )


def reruns(
    ran: Iterable[Execution], troubles: Sequence[Trouble], settled: Mapping[str, float], *, lease_s: float
) -> list[Rerun]:
    """Find all commands that were run twice or more often.

    Args:
        settled: when the result of a task was stored. What befell a worker after that is no reason.
    """
    by_task: dict[str, list[Execution]] = {}
    for execution in ran:
        by_task.setdefault(execution.task_id, []).append(execution)
    found: list[Rerun] = []
    for task_id, runs in by_task.items():
        # By the order of the claims: a worker may stand still between its claim and its run.
        runs.sort(key=lambda run: (run.attempt, run.at))
        for earlier, later in pairwise(runs):
            began_before = min(later.at, settled.get(task_id, inf))
            hits = [one for one in troubles if one.hit(earlier.worker) and one.began < began_before]
            found.append(Rerun(earlier, later, _reason(earlier, later, hits, lease_s)))
    return found


def _reason(earlier: Execution, later: Execution, hits: Sequence[Trouble], lease_s: float) -> str:
    if any(one.kind == "death" for one in hits):
        return DEATH
    if any(one.kind == "term" for one in hits):
        return TERM
    cuts = [one for one in hits if one.kind in _CUTS]
    refusals = [one for one in hits if one.kind == "refusal"]
    # The last renewal before a cut may be a third of a lease old. While a refusal lasts for less than a lease, its
    # worker keeps the delivery, however old the renewal is.
    run_out_s = lease_s - lease_s / 3 - _LATE_S
    for reason, those, longer_than_s in (
        (CUT, cuts, run_out_s),
        (REFUSAL, refusals, lease_s),
        (BOTH, [*cuts, *refusals] if cuts and refusals else [], run_out_s),
    ):
        for began, ended in merged(those, gap_s=_GAP_S):
            around = ended > min(earlier.at, later.at) - lease_s
            if around and min(ended, later.at) - began > longer_than_s:
                return reason
    return NONE


def begun_during(kind: TroubleKind, ran: Iterable[Execution], troubles: Sequence[Trouble]) -> int:
    """How many runs a worker has begun while such a trouble lasted for it."""
    those = [one for one in troubles if one.kind == kind]
    return sum(any(one.hit(run.worker) and one.began < run.at < one.ended for one in those) for run in ran)


def counts(found: Iterable[Rerun]) -> dict[str, int]:
    """How many of them have which reason."""
    reasons = [one.reason for one in found]
    return {f"run again: {reason}": reasons.count(reason) for reason in REASONS}
