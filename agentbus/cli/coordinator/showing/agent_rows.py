"""The rows of agents in the table of `agent list`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from agentbus.cli.fitted_table import Column, ago, moment, print_fitted
from agentbus.cli.output import free_slots

_COLUMNS: Final = (
    Column("agent", 0),
    Column("workers", 1),
    Column("free slots", 4),
    Column("waiting", 2),
    Column("running", 3),
    Column("seen", 5),
    Column("version", 7),
    Column("description", 6, 12),
)


def print_agents(agents: Sequence[dict[str, Any]]) -> None:
    """Print a table of agents, as `AgentOverview.to_json` describes them."""
    now = datetime.now(UTC)
    print_fitted(_COLUMNS, [_row(one, now) for one in agents], "no agents")


def _row(one: dict[str, Any], now: datetime) -> dict[str, str]:
    workers: list[dict[str, Any]] = one["workers"]
    return {
        "agent": one["agent"],
        "workers": str(len(workers)) if workers else "none alive",
        "free slots": free_slots(workers) if workers else "",
        "waiting": str(one.get("waiting", "?")),
        "running": str(one.get("unacknowledged", "?")),
        "seen": ago(now, moment(max((worker["seen_at"] for worker in workers), default=None))),
        "version": ", ".join(sorted({worker["version"] for worker in workers})),
        "description": next((worker["description"] for worker in workers if worker["description"]), ""),
    }
