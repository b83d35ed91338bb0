"""`agentbus task`: publishes, shows, awaits, cancels, answers and retries tasks."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from agentbus.cli import lazy, output
from agentbus.cli.coordinator.acting.cancel import cancel
from agentbus.cli.coordinator.publish import print_published, publish
from agentbus.cli.coordinator.question import answer
from agentbus.cli.lazy_group import AliasGroup
from agentbus.cli.options import (
    Count,
    GroupName,
    TaskName,
    agent_of_task_option,
    agent_option,
    bus_options,
    in_group_option,
    limit_option,
    output_option,
    owner_option,
    since_option,
    text_option,
    timeout_option,
    type_option,
    with_coordinator,
)
from agentbus.cli.waiting_tasks import warn_without_worker
from agentbus.errors import TaskNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.coordinator import Coordinator
    from agentbus.protocol.json_codec import Json
    from agentbus.tasks.presence import PausedWorker
    from agentbus.tasks.questions.asked import AskedQuestion
    from agentbus.tasks.status import TaskStatus

_STATES = ("queued", "working", "completed", "failed", "needs_approval", "cancelled")
_MAX_LISTED = 200
"""The limit of one call of `Coordinator.list_tasks`."""

_task_id = click.argument("task_id", metavar="ID", type=TaskName())


@click.group(cls=AliasGroup)
def task() -> None:
    """Publish tasks, follow them, and act on them."""


task.add_command(publish)


# -- show ------------------------------------------------------------------------------------------------------


@task.command(
    short_help="Show a task: its content, state and result.",
    epilog="""\b
Examples:
  agentbus task get task-20260518-k3v9…
  agentbus task get code/nightly-build""",
)
@_task_id
@click.option("--full", is_flag=True, help="Show the whole content of the task, and not only its beginning.")
@output_option
@agent_of_task_option
@with_coordinator
async def get(bus: "Coordinator", *, task_id: str, agent: str | None, full: bool) -> None:
    """Show a task: what it is about, what became of it or what it does now, and its result, if it has one."""
    status = await bus.task(task_id, agent=agent).status()
    progress = None if status.settled else await lazy.last.last_progress(bus.bus, status.record.key)
    chain = await lazy.follow_ups.conversation_of(bus.bus, status) if status.continues else []
    content = await _queued_content(bus, status) if output.tabular() else None
    lazy.task_view.show(status, progress, [str(one) for one in chain], content=content, full=full)
    if status.state == "queued":
        await warn_without_worker(bus, status.agent, only_paused=True)


async def _queued_content(bus: "Coordinator", status: "TaskStatus") -> "Json":
    """Return the content of a task that has no result, as far as this user may read the queue."""
    message = await lazy.queued_content.queued_task(bus.bus, status)
    return message.payload.content if message is not None and message.payload is not None else None


@task.command(
    short_help="Show what a task does, or did.",
    epilog="""\b
Examples:
  agentbus task logs task-20260518-k3v9…
  agentbus task logs -f code/nightly-build
  agentbus task logs code/nightly-build | jq -r 'select(.kind == "tool") | .text'
  agentbus task logs --raw code/nightly-build > transcript.jsonl

\b
Each line is an event: what the agent says, the tools that it uses, why it waits, or what a command prints. The
words are the agent's. In a pipe, each is an object of JSON.""",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has its result.")
@click.option("--raw", is_flag=True, help="Print what the agent printed, byte for byte; the task must have its result.")
@_task_id
@agent_of_task_option
@bus_options
def logs(nats_url: str | None, config: "Path | None", *, follow: bool, raw: bool, **options: Any) -> None:
    """Show what the runs of a task do, from the oldest event that is kept.

    Of a task that has its result, this is all that the agent printed in its last run, as far as it was kept.
    """
    if raw and follow:
        raise click.UsageError("--raw and --follow exclude each other.", click.get_current_context())
    lazy.session.run_connected(nats_url, config, partial(_logs, follow=follow, raw=raw, **options))


async def _logs(bus: "Coordinator", *, task_id: str, agent: str | None, follow: bool, raw: bool) -> None:
    handle = bus.task(task_id, agent=agent)
    if raw:
        await lazy.task_log.print_transcript(handle)
    else:
        await lazy.task_log.print_log(handle, follow=follow)


@task.command(
    "list",
    short_help="List tasks, the last changed first.",
    epilog="""\b
Examples:
  agentbus task list
  agentbus task list --agent code --state working
  agentbus task list --state failed --limit 50 | jq -r .id
  agentbus task list --group release-1.2
  agentbus task list --text timeout --since 2h

\b
If there are older tasks, the option --cursor that continues the list is printed on standard error. A search for a
state that is rare among many tasks says there how far it is; Ctrl-C ends it with what it has found.""",
)
@agent_option()
@owner_option
@click.option("--state", type=click.Choice(_STATES), help="Only tasks in this state.")
@in_group_option
@type_option
@text_option
@since_option
@output_option
@limit_option("How many tasks.", most=_MAX_LISTED)
@click.option("--cursor", type=Count(min=1), help="Continue an earlier list, towards older tasks.")
@with_coordinator
async def list_(
    bus: "Coordinator",
    *,
    limit: int,
    cursor: int | None,
    **filters: Any,
) -> None:
    """List tasks without their results, the last changed first."""
    await lazy.task_search.TaskSearch(bus, limit, cursor).run(**filters)


@task.command(
    short_help="Wait until tasks have their results.",
    epilog="""\b
Examples:
  agentbus task wait task-20260518-k3v9…
  agentbus task wait code/job-code doc/job-doc --any --timeout 10m
  agentbus task wait --exit-status code/nightly-build && ./deploy
  agentbus task wait --group release-1.2 --exit-status && ./publish

\b
Prints each task with its result, one JSON line each. The exit code is 0 for any result, also of a task that
failed, and 1 if a task is still pending after the time-out. With --exit-status it is 0 only if all tasks are
completed, or else the highest of: 3 needs approval, 4 cancelled, 5 still pending, 6 failed.""",
)
@click.option("--group", metavar="NAME", type=GroupName(), help="Wait for all tasks of this group, as they are now.")
@click.option("--any", "until_any", is_flag=True, help="Return as soon as one task is settled.")
@click.option("--exit-status", is_flag=True, help="Let the exit code say what became of the tasks.")
@timeout_option
@agent_option("The agent that has the tasks; needed if the credentials permit only tasks of this agent.")
@click.argument("task_ids", metavar="[ID...]", type=TaskName(), nargs=-1)
@bus_options
def wait(
    task_ids: tuple[str, ...], group: str | None, nats_url: str | None, config: "Path | None", **options: Any
) -> None:
    """Wait until tasks have their results, also over restarts of the bus.

    Standard error says when a run asks a person, and how to answer. A time-out or Ctrl-C does not affect the tasks.
    """
    if bool(task_ids) == (group is not None):
        fault = "ID and --group exclude each other." if task_ids else "Missing argument 'ID...', or the option --group."
        raise click.UsageError(fault, click.get_current_context())
    lazy.session.run_connected(nats_url, config, partial(_wait, task_ids=task_ids, group=group, **options))


async def _wait(
    bus: "Coordinator",
    *,
    task_ids: tuple[str, ...],
    group: str | None,
    timeout_s: float | None,
    agent: str | None,
    until_any: bool,
    exit_status: bool,
) -> None:
    if group is not None:
        task_ids = tuple(str(status.name) for status in await bus.group_tasks(group))
        if not task_ids:
            raise TaskNotFoundError(f"the bus knows no task of the group {group}")

    def progress(task_id: str, state: str) -> None:
        if output.on_terminal():
            output.remark(f"{task_id}: {state}")

    def paused(of_agent: str, pause: "PausedWorker") -> None:
        output.remark(f"all workers of the agent {of_agent} are {pause.in_words}; its tasks wait")

    def asked(question: "AskedQuestion") -> None:
        output.remark(lazy.question_list.in_one_line(question))

    until = "any" if until_any else "all"
    waited = await bus.wait(
        task_ids,
        until=until,
        timeout_s=timeout_s,
        agent=agent,
        on_change=progress,
        on_paused=paused,
        on_question=asked,
    )
    for status in waited.settled.values():
        lazy.task_view.show(status)
    lazy.awaited.end_of_wait(waited, timeout_s, any_is_enough=until_any, exit_status=exit_status)


# -- act --------------------------------------------------------------------------------------------------------


task.add_command(cancel)
task.add_command(answer)


@task.command(
    short_help="Publish a settled task again, under a new id.",
    epilog="""\b
Examples:
  agentbus task retry task-20260518-k3v9…""",
)
@agent_of_task_option
@_task_id
@with_coordinator
async def retry(bus: "Coordinator", *, task_id: str, agent: str | None) -> None:
    """Publish a settled task again, under a new id; the new task names the old one in `retry_of`."""
    published = await bus.task(task_id, agent=agent).retry()
    await warn_without_worker(bus, published.agent)
    print_published([published])
