"""The exit codes of the commands, other than 0 for success."""

from collections.abc import Iterable
from typing import Final

FAILED = 1
"""The command failed; one line on standard error says why."""
USAGE = 2
"""Wrong usage, as in click and most programs."""
NEEDS_APPROVAL = 3
"""The task that the command waited for ended as `needs_approval`."""
CANCELLED = 4
"""It was cancelled."""
TIMED_OUT = 5
"""It has no result yet, and the time of the wait is over."""
TASK_FAILED = 6
"""It failed. That is not FAILED: there the command itself failed, and the task may go on."""
INTERRUPTED = 130
"""Ctrl-C: 128 plus the number of SIGINT, as in shells."""

_OF_STATES: Final = {
    "completed": 0,
    "needs_approval": NEEDS_APPROVAL,
    "cancelled": CANCELLED,
    "failed": TASK_FAILED,
}


def of_states(states: Iterable[str]) -> int:
    """Return the exit code for what became of tasks: 0 only if all are completed, or else the highest of theirs.

    A task without a result counts as one whose time is over, and comes before a cancelled one and behind a failed one:
    a failure is what no longer wait changes.
    """
    return max((_OF_STATES.get(state, TIMED_OUT) for state in states), default=0)
