"""The rows of agents in the table of `agent list`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from agentbus.cli.fitted_table import Column, ago, moment, print_fitted
from agentbus.cli.output import free_slots

if TYPE_CHECKING:
    from agentbus.admin.queued_tasks import AgentTasks
    from agentbus.agent_overview import AgentOverview

COLUMNS: Final = (
    Column("agent", 0),
    Column("workers", 1),
    Column("free slots", 4),
    Column("queued", 2),
    Column("running", 3),
    Column("seen", 5),
    Column("version", 7),
    Column("description", 6, 12),
)


def print_agents(agents: Sequence[dict[str, Any]], counts: "Mapping[str, AgentTasks]") -> None:
    """Print a table of agents, as `AgentOverview.to_json` describes them, with how many tasks of each wait and run."""
    now = datetime.now(UTC)
    print_fitted(COLUMNS, [row(one, now, counts.get(one["agent"])) for one in agents], "no agents")


def row(one: dict[str, Any], now: datetime, tasks: "AgentTasks | None" = None) -> dict[str, str]:
    """Write what a list shows of an agent.

    Args:
        tasks: how many tasks wait and run. Without, the queue tells: what was given to a worker that is gone waits.
    """
    workers: list[dict[str, Any]] = one["workers"]
    waiting, given = one.get("waiting"), one.get("unacknowledged")
    if tasks is not None:
        queued, running = tasks.queued, tasks.running
    elif workers or waiting is None:
        queued, running = waiting, given
    else:
        queued, running = waiting + (given or 0), 0
    return {
        "agent": one["agent"],
        "workers": str(len(workers)) if workers else "none alive",
        "free slots": free_slots(workers) if workers else "",
        "queued": _count(queued),
        "running": _count(running),
        "seen": ago(now, moment(max((worker["seen_at"] for worker in workers), default=None))),
        "version": ", ".join(sorted({worker["version"] for worker in workers})),
        "description": next((worker["description"] for worker in workers if worker["description"]), ""),
    }


def states_of(one: "AgentOverview") -> tuple[str, ...]:
    """Return the states that an agent is in, as `--state` names them."""
    paused = ("paused",) if one.paused_by is not None or one.paused is not None else ()
    return ("online" if one.online else "offline", *paused)


def has_text(one: "AgentOverview", text: str | None) -> bool:
    """Whether an agent has a text in its id, in what its workers say of it, or in the names of their machines."""
    if text is None:
        return True
    said = [part for worker in one.workers for part in (worker.description, worker.host)]
    return text.casefold() in "\n".join((one.agent, *said)).casefold()


def _count(number: int | None) -> str:
    return "?" if number is None else str(number)
