"""`agentbus task cancel`: cancels tasks that are named, or those that filters choose, once a person has agreed."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import (
    TaskName,
    agent_option,
    bus_options,
    in_group_option,
    owner_option,
    text_option,
    type_option,
)

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.coordinator import Coordinator
    from agentbus.tasks.status import TaskStatus

_FILTERS = ("owner", "state", "group", "task_type", "text")
_MOST_SHOWN = 20
"""Of the tasks that a person is asked about."""


@click.command(
    short_help="Cancel tasks, queued or running.",
    epilog="""\b
Examples:
  agentbus task cancel task-20260518-k3v9…
  agentbus task cancel task-20260518-k3v9… --reason 'the branch was merged'
  agentbus task cancel --group release-1.2
  agentbus task cancel --agent code --state queued --yes

\b
Tasks that are named are cancelled at once. Of those that options choose, it shows how many there are, and asks
first; without a terminal to ask on, it needs --yes.""",
)
@click.option("--reason", metavar="TEXT", default="", help="The reason, for the result.")
@agent_option("Tasks of this agent; with an ID, the agent that has the task, if several have one with this id.")
@click.option("--state", type=click.Choice(("queued", "working")), help="Only tasks in this state.")
@in_group_option
@type_option
@text_option
@owner_option
@click.option("--all", "everything", is_flag=True, help="All tasks that are queued or running.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@bus_options
@click.argument("task_ids", metavar="[ID...]", type=TaskName(), nargs=-1)
def cancel(
    task_ids: tuple[str, ...],
    nats_url: str | None,
    config: "Path | None",
    *,
    agent: str | None,
    reason: str,
    everything: bool,
    yes: bool,
    **filters: Any,
) -> None:
    """Cancel tasks: a queued task never starts, and a running task has its processes ended.

    Cancelling again has no effect. A task that has its result keeps it; the command prints its state.
    """
    chosen = {name: value for name, value in filters.items() if value is not None}
    _check_usage(task_ids, chosen, agent=agent, everything=everything)
    if task_ids:
        work = partial(_cancel, task_ids=task_ids, agent=agent, reason=reason)
    else:
        work = partial(_cancel_all, reason=reason, yes=yes, **chosen, **({"agent": agent} if agent else {}))
    lazy.session.run_connected(nats_url, config, work)


def _check_usage(task_ids: tuple[str, ...], chosen: dict[str, Any], *, agent: str | None, everything: bool) -> None:
    filtered = bool(chosen) or everything
    faults = {
        "Missing argument 'ID...', or an option that chooses tasks.": not (task_ids or filtered or agent),
        "ID and options that choose tasks exclude each other.": bool(task_ids) and filtered,
        "--all and options that choose tasks exclude each other.": everything and bool(chosen or agent),
    }
    for fault, is_there in faults.items():
        if is_there:
            raise click.UsageError(fault, click.get_current_context())


async def _cancel(bus: "Coordinator", *, task_ids: tuple[str, ...], agent: str | None, reason: str) -> None:
    if len(task_ids) == 1:
        status = await bus.task(task_ids[0], agent=agent).cancel(reason)
        await _remark(bus, [status])
        lazy.task_view.show(status)
        return
    await _cancel_each(bus, task_ids, agent, reason)


async def _cancel_all(bus: "Coordinator", *, reason: str, yes: bool, **filters: Any) -> None:
    wanted = lazy.wanted.Wanted.of(bus, **filters, is_open=True)
    found = (await lazy.task_list.all_listed(bus.bus, wanted)).tasks
    if not found:
        output.remark("there is no such task that is queued or running")
        return
    if not yes:
        await _ask(found, bus.agent)
    await _cancel_each(bus, tuple(str(status.name) for status in found), None, reason)


async def _ask(found: "list[TaskStatus]", asker: str) -> None:
    """Show what would be cancelled, and ask a person.

    Raises:
        UsageError: there is no terminal to ask on.
        Abort: the answer is no.
    """
    if not (sys.stdin.isatty() and output.on_terminal()):
        tasks = "1 task" if len(found) == 1 else f"{len(found)} tasks"
        raise click.UsageError(
            f"{tasks} would be cancelled, and there is no terminal to ask on: give --yes.",
            click.get_current_context(),
        )
    lazy.task_rows.print_tasks(found[:_MOST_SHOWN], owned=any(status.owner != asker for status in found))
    if len(found) > _MOST_SHOWN:
        output.line(f"and {len(found) - _MOST_SHOWN} more")
    tasks = "this task" if len(found) == 1 else f"these {len(found)} tasks"
    await lazy.asyncio.to_thread(click.confirm, f"Cancel {tasks}?", abort=True, err=True)


async def _cancel_each(bus: "Coordinator", names: tuple[str, ...], agent: str | None, reason: str) -> None:
    outcomes = await bus.cancel_all(names, agent=agent, reason=reason)
    failed = [one for one in outcomes if isinstance(one, lazy.task_handle.TaskFailure)]
    done = [one for one in outcomes if not isinstance(one, lazy.task_handle.TaskFailure)]
    await _remark(bus, done)
    if output.on_terminal():
        lazy.task_rows.print_tasks(done, owned=any(status.owner != bus.agent for status in done))
    else:
        for status in done:
            output.json_line(status.to_json(with_result=False))
    for one in failed:
        output.remark(f"warning: {one.id}: {one.error}")
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(outcomes)} tasks were not cancelled: {failed[0].error}")


async def _remark(bus: "Coordinator", done: "list[TaskStatus]") -> None:
    """Say of which tasks it is too late, and of which no worker is alive that could end them."""
    for status in done:
        if status.record.entry.terminal and status.state != "cancelled":
            output.remark(f"too late: the task {status.task_id} is {status.state}")
    running = [status for status in done if status.state == "working"]
    for agent in dict.fromkeys(status.agent for status in running):
        if await lazy.waiting_tasks.has_no_worker(bus, agent):
            names = ", ".join(status.task_id for status in running if status.agent == agent)
            output.remark(
                f"asked to end: {names}; its worker is not alive, so it ends when another worker of {agent} takes it"
            )
