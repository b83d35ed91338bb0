"""`agentbus audit`: who published which task, who cancelled, answered or retried one, and who paused an agent."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import (
    AgentId,
    TaskName,
    agent_option,
    limit_option,
    output_option,
    since_option,
    with_coordinator,
)

if TYPE_CHECKING:
    from datetime import datetime

    from agentbus.coordinator import Coordinator
    from agentbus.protocol.audit.lines import Line

_MAX_LISTED = 100_000
_WHAT = ("publish", "cancel", "answer", "retry", "requeue", "drop", "pause", "resume")


@click.command(
    short_help="Show who did what on the bus.",
    epilog="""\b
Examples:
  agentbus audit --since 2h
  agentbus audit --who alice --since 2026-11-20
  agentbus audit --agent code --what cancel
  agentbus audit --task code/job-1 --limit 1000 | jq -r .who

\b
The server writes a line for each task that is published, and names the party. Cancellations, answers,
retries and pauses are lines that the party itself sends; where it has an account of its own, the server names it, too.
Lines stay for 90 days. Operators, viewers and the administrator can read them.""",
)
@click.option("--who", metavar="ID", type=AgentId(), help="Only lines of this party.")
@click.option("--task", "task", metavar="TASK", type=TaskName(), help="Only lines about this task.")
@agent_option("Only lines about this agent, or about tasks of it.")
@click.option("--what", type=click.Choice(_WHAT), help="Only lines of this kind.")
@click.option("--text", metavar="TEXT", help="Only lines with this in the id of the task, or in the detail.")
@since_option
@limit_option("How many of the newest.", default=100, most=_MAX_LISTED)
@output_option
@with_coordinator
async def audit(
    bus: "Coordinator", *, task: str | None, since: "datetime | None", limit: int, **filters: str | None
) -> None:
    """Show who published, cancelled, answered, retried or requeued a task, and who paused an agent, oldest first."""
    log = lazy.audit_log
    wanted = log.Wanted(task=lazy.task_names.task_name(task) if task is not None else None, since=since, **filters)
    lines = await log.newest_lines(bus.bus, wanted, limit)
    if output.tabular():
        _print(lines)
    else:
        for line in lines:
            output.json_line(log.to_json(line))
    lost = await log.lost_lines(bus.bus)
    if lost.full_since is not None:
        output.remark(
            f"the audit is full, and complete since {lost.full_since:%Y-%m-%d %H:%M} only: raise its max_bytes"
        )
    if lost.count:
        whose = f", those of {', '.join(lost.parties)}" if lost.parties else ""
        output.remark(f"{lost.count} lines or more are gone before their 90 days, for newer ones of their party{whose}")


def _print(lines: "list[Line]") -> None:
    """Print a table of lines, with whole ids of tasks."""
    column = lazy.fitted_table.Column
    columns = (column("task", 0), column("what", 1), column("time", 3), column("who", 2, 8), column("detail", 4, 10))
    lazy.fitted_table.print_fitted(columns, [_row(line) for line in lines])


def _row(line: "Line") -> dict[str, str]:
    return {
        "task": str(lazy.audit_log.name(line)) if line.task else f"agent {line.agent}",
        "what": line.what,
        "time": f"{line.at:%Y-%m-%d %H:%M:%S}",
        "who": line.who if line.named_by == "subject" else f"{line.who} (says the sender)",
        "detail": line.detail,
    }
