"""The rows of tasks in the tables of `task list`, `status` and `top`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from agentbus.cli.coordinator.figures import dollars
from agentbus.cli.fitted_table import Column, ago, duration, moment, print_fitted
from agentbus.tasks.status import TaskStatus

COLUMNS: Final = (
    Column("task", 0),
    Column("state", 1, 14),
    Column("agent", 2, 12),
    Column("ago", 3),
    Column("took", 6),
    Column("cost", 7),
    Column("type", 9, 10),
    Column("owner", 10, 12),
    Column("attempt", 12),
    Column("continues", 11, 16),
    Column("why", 5, 10),
    Column("about", 4, 10),
    Column("group", 8, 10),
)
"""Of a narrow terminal those are left by which a person finds a task again: the id, what became of it, and what it is
about. Why one failed stands beside its state in a word; ten characters of the reason would say less."""


def print_tasks(tasks: Sequence[TaskStatus], *, owned: bool) -> None:
    """Print a table of tasks; with their owners, if `owned`."""
    now = datetime.now(UTC)
    print_fitted(COLUMNS, [row(status, now, owned=owned) for status in tasks], "no tasks")


def row(status: TaskStatus, now: datetime, *, owned: bool) -> dict[str, str]:
    """Write what a list shows of a task. `took` is from its publication to its result, or since its run began."""
    entry = status.record.entry
    return {
        "task": status.task_id,
        "state": status.state_in_words,
        "agent": status.agent,
        "ago": ago(now, status.record.changed_at),
        "took": _took(status, now),
        "cost": dollars(status.cost_usd),
        "type": entry.task_type,
        "owner": status.owner if owned else "",
        "attempt": str(entry.attempt) if entry.attempt > 1 else "",
        "continues": status.continues or "",
        "why": _why(status),
        "about": status.about,
        "group": status.group or "",
    }


def _took(status: TaskStatus, now: datetime) -> str:
    entry = status.record.entry
    if status.state == "working" and entry.claim is not None:
        return ago(now, moment(entry.claim.since))
    begun = moment(entry.created_at)
    return duration((status.record.changed_at - begun).total_seconds()) if status.settled and begun else ""


def _why(status: TaskStatus) -> str:
    """The reason of a failure or of a cancellation."""
    cancel = status.record.entry.cancel
    if status.state == "cancelled" and cancel is not None:
        return cancel.reason
    return (status.error or "").strip() if status.state == "failed" else ""
