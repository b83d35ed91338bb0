"""The rows of workers in the table of `worker list`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agentbus.cli.fitted_table import Column, ago, moment, print_fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentbus.tasks.presence import Presence

_COLUMNS: Final = (
    Column("worker", 0),
    Column("agent", 1, 10),
    Column("state", 2, 12),
    Column("tasks", 4),  # ids, whole or not at all
    Column("host", 5, 10),
    Column("seen", 3),
    Column("version", 6),
    Column("command", 7, 10),
)


def print_workers(workers: "Sequence[Presence]") -> None:
    """Print a table of workers."""
    now = datetime.now(UTC)
    print_fitted(_COLUMNS, [_row(one, now) for one in workers], "no workers are alive")


def _row(worker: "Presence", now: datetime) -> dict[str, str]:
    return {
        "worker": worker.instance,
        "agent": worker.agent,
        "state": state_of(worker),
        "tasks": ", ".join(worker.running),
        "host": worker.host,
        "seen": ago(now, moment(worker.seen_at)),
        "version": worker.version,
        "command": worker.command,
    }


def state_of(worker: "Presence") -> str:
    """Say what a worker does: it is idle, works in how many of its slots, or takes no task, and why."""
    if worker.paused is not None:
        return f"paused: {worker.paused.reason or worker.paused.code}"
    lost = f", {worker.lost} lost" if worker.lost else ""
    busy = worker.slots - worker.free - worker.lost
    return f"working {busy}/{worker.slots}{lost}" if busy > 0 else f"idle{lost}"
