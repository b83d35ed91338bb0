"""`agentbus task`: publish tasks, and see what became of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentbus.cli import output
from agentbus.cli.options import AgentId, TaskId, bus_options, coordinator, run
from agentbus.errors import AgentBusError, BusError, MessageError, TaskConflictError

if TYPE_CHECKING:
    from agentbus.coordinator import Coordinator
    from agentbus.protocol.messages import Task
    from agentbus.tasks.status import TaskStatus

_STATES = ("queued", "working", "completed", "failed", "needs_approval", "cancelled")


@click.group()
def task() -> None:
    """Publish tasks, and see what became of them."""


@task.command(
    epilog="""\b
Examples:
  agentbus task publish --to code --task-type review_pr "Review PR 123 of org/repo"
  agentbus task publish --to code --to doc --task-type release --payload-fmt json '{"version": "1.2"}'
  git diff | agentbus task publish --to code --task-type review -

\b
Prints the published message as one line of JSON, or a JSON list when there are several targets."""
)
@click.option("--to", "targets", metavar="ID", type=AgentId(), multiple=True, required=True, help="Agent; repeatable.")
@click.option("--task-type", metavar="TYPE", required=True, help="What kind of task it is, e.g. review_pr.")
@click.option("--from", "sender", metavar="ID", type=AgentId(), help="Sender.  [default: the coordinator, main]")
@click.option("--reply-to", metavar="ID", type=AgentId(), help="Whose inbox gets the result.  [default: the sender]")
@click.option("--payload-fmt", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--task-id",
    metavar="ID",
    type=TaskId(),
    help="Your own id: publishing again under it is harmless. With several targets it becomes ID-<agent>.",
)
@bus_options
@click.argument("content")
def publish(content: str, nats_url: str | None, config: Path | None, **options: Any) -> None:
    """Publish a task to one or several agents. CONTENT is what it says; `-` reads it from standard input.

    The command returns once the bus has stored every task: then none of them can get lost.
    """
    run(_publish(_read(content), nats_url, config, **options))


def _read(content: str) -> str:
    if content != "-":
        return content
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise MessageError(f"standard input is not UTF-8 text (byte {error.start})") from None


async def _publish(  # noqa: PLR0913  # one for each option of the command
    content: str,
    nats_url: str | None,
    config: Path | None,
    *,
    targets: tuple[str, ...],
    task_type: str,
    sender: str | None,
    reply_to: str | None,
    payload_fmt: str,
    task_id: str | None,
) -> None:
    from agentbus.protocol.json_codec import decode  # noqa: PLC0415

    value: Any = content
    if payload_fmt == "json":
        try:
            value = decode(content.encode(errors="surrogateescape"))
        except MessageError as error:
            raise MessageError(f"the content is {error}; leave out --payload-fmt json to send it as text") from None
    async with coordinator(nats_url, config) as bus:
        tasks = bus.build(
            targets,
            value,
            task_type=task_type,
            payload_format="json" if payload_fmt == "json" else "text",
            sender=sender,
            reply_to=reply_to,
            task_id=task_id,
        )
        published: list[Task] = []
        failures: list[AgentBusError] = []
        for one in tasks:
            try:
                sent = await bus.send(one)
            except (BusError, TaskConflictError) as error:
                failures.append(error)
            else:
                published.append(one)
                await _say_if_nobody_is_there(bus, one)
                if sent.known:
                    output.remark(f"the task {one.id} was published before; it is {sent.state}")
    if published:
        output.json_line([one.to_json() for one in published] if len(tasks) > 1 else published[0].to_json())
    if failures:
        first = str(failures[0])
        raise AgentBusError(first if len(tasks) == 1 else f"{len(failures)} of {len(tasks)} not published: {first}")


async def _say_if_nobody_is_there(bus: "Coordinator", task: "Task") -> None:
    try:
        if not await bus.agents(task.agent):
            output.remark(f"no worker of the agent {task.agent} is alive now; the task waits for one, for up to 7 days")
    except BusError:
        return  # this user may not read the registry; the task is published all the same


@task.command(
    "get",
    epilog="""\b
Examples:
  agentbus task get task-20260518-k3v9…
  agentbus task get nightly-build --agent code""",
)
@click.option("--agent", metavar="ID", type=AgentId(), help="The agent it was given to, if several have this task id.")
@bus_options
@click.argument("task_id", metavar="ID", type=TaskId())
def get(task_id: str, agent: str | None, nats_url: str | None, config: Path | None) -> None:
    """Show the state of a task and, once it is there, its result."""
    run(_get(task_id, agent, nats_url, config))


async def _get(task_id: str, agent: str | None, nats_url: str | None, config: Path | None) -> None:
    async with coordinator(nats_url, config) as bus:
        _show(await bus.task(task_id, agent=agent))


@task.command(
    "list",
    epilog="""\b
Examples:
  agentbus task list
  agentbus task list --agent code --state working
  agentbus task list --state failed --limit 50 | jq -r .id

\b
Older ones: the call for them stands on standard error, with its --cursor.""",
)
@click.option("--agent", metavar="ID", type=AgentId(), help="Only tasks of this agent.")
@click.option("--state", type=click.Choice(_STATES), help="Only tasks in this state.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@click.option("--cursor", type=click.IntRange(min=1), help="Go on from an earlier list, towards older tasks.")
@bus_options
def list_(nats_url: str | None, config: Path | None, **options: Any) -> None:
    """List tasks by their last change, the newest first, without their results."""
    run(_list(nats_url, config, **options))


async def _list(nats_url: str | None, config: Path | None, **options: Any) -> None:
    async with coordinator(nats_url, config) as bus:
        found = await bus.list_tasks(**options)
    if output.on_terminal():
        output.table(["changed", "agent", "state", "attempt", "type", "task"], [_row(status) for status in found.tasks])
    else:
        for status in found.tasks:
            output.json_line(status.to_json(with_result=False))
    for fault in found.unreadable:
        output.remark(f"warning: {fault}")
    if found.cursor is not None:
        why = "the search stopped early; " if found.partial else ""
        output.remark(f"{why}older tasks: --cursor {found.cursor}")


def _row(status: "TaskStatus") -> list[str]:
    entry = status.record.entry
    changed = f"{status.record.changed_at:%Y-%m-%d %H:%M:%S}"
    return [changed, status.agent, status.state, str(entry.attempt or ""), entry.task_type, status.task_id]


def _show(status: "TaskStatus") -> None:
    account = status.to_json()
    if not output.on_terminal():
        output.json_line(account)
        return
    result: dict[str, Any] = account.pop("result", None) or {}
    output.table(["", ""], [[key, str(value)] for key, value in account.items()])
    for text in (result.get("error"), result.get("result")):
        if text:
            click.echo(output.plain(str(text)))


@task.command(
    epilog="""\b
Examples:
  agentbus task wait task-20260518-k3v9…
  agentbus task wait job-code job-doc --any --timeout 600

\b
Prints each task with its result, one JSON line each. Exit code 1 if any is still pending after the time-out.""",
)
@click.option("--any", "until_any", is_flag=True, help="Return with the first that is settled, not with the last.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="SECONDS", help="[default: for ever]")
@click.option(
    "--agent", metavar="ID", type=AgentId(), help="The agent that has them, for those who may see no other's."
)
@bus_options
@click.argument("task_ids", metavar="ID...", type=TaskId(), nargs=-1, required=True)
def wait(
    task_ids: tuple[str, ...],
    nats_url: str | None,
    config: Path | None,
    timeout_s: float | None,
    agent: str | None,
    *,
    until_any: bool,
) -> None:
    """Wait until tasks have their results, over restarts of the bus. Giving up does nothing to the tasks."""
    run(_wait(task_ids, nats_url, config, timeout_s, agent, until_any=until_any))


async def _wait(
    task_ids: tuple[str, ...],
    nats_url: str | None,
    config: Path | None,
    timeout_s: float | None,
    agent: str | None,
    *,
    until_any: bool,
) -> None:
    def progress(task_id: str, state: str) -> None:
        if output.on_terminal():
            output.remark(f"{task_id}: {state}")

    async with coordinator(nats_url, config) as bus:
        until = "any" if until_any else "all"
        waited = await bus.wait(task_ids, until=until, timeout_s=timeout_s, agent=agent, on_change=progress)
    for status in waited.settled.values():
        _show(status)
    if waited.pending and not (until_any and waited.settled):
        pending = ", ".join(f"{task_id} ({status.state})" for task_id, status in waited.pending.items())
        raise AgentBusError(f"still pending after {timeout_s:g} s: {pending}")


@task.command(
    epilog="""\b
Examples:
  agentbus task cancel task-20260518-k3v9…
  agentbus task cancel task-20260518-k3v9… --reason 'the branch was merged'""",
)
@click.option("--reason", metavar="TEXT", default="", help="Why; stands in the result.")
@click.option("--agent", metavar="ID", type=AgentId(), help="The agent it was given to, if several have this task id.")
@bus_options
@click.argument("task_id", metavar="ID", type=TaskId())
def cancel(task_id: str, agent: str | None, reason: str, nats_url: str | None, config: Path | None) -> None:
    """Cancel a task: queued, it never starts; running, its processes are ended.

    Cancelling again is harmless. A task that has its result keeps it, and the state it was found in is shown.
    """
    run(_cancel(task_id, agent, reason, nats_url, config))


async def _cancel(task_id: str, agent: str | None, reason: str, nats_url: str | None, config: Path | None) -> None:
    async with coordinator(nats_url, config) as bus:
        status = await bus.cancel(task_id, agent=agent, reason=reason)
    if status.record.entry.terminal and status.state != "cancelled":
        output.remark(f"too late: the task {task_id} is {status.state}")
    _show(status)


@task.command(
    epilog="""\b
Examples:
  agentbus task answer task-20260518-k3v9… --approve
  agentbus task answer task-20260518-k3v9… --deny --comment 'open a pull request instead'

\b
Prints the task that carries the answer; wait for that one.""",
)
@click.option(
    "--approve", "approve", flag_value=True, type=bool, default=None, help="Allow the step that the agent asked for."
)
@click.option("--deny", "approve", flag_value=False, type=bool, default=None, help="Forbid it.")
@click.option("--comment", metavar="TEXT", default="", help="What else the agent shall know.")
@click.option("--agent", metavar="ID", type=AgentId(), help="The agent it was given to, if several have this task id.")
@bus_options
@click.argument("task_id", metavar="ID", type=TaskId())
def answer(
    task_id: str, agent: str | None, comment: str, nats_url: str | None, config: Path | None, *, approve: bool | None
) -> None:
    """Answer a task that needs an approval: its agent gets the decision as a task ID.answer.

    The same answer can be repeated. It cannot be changed: another one is refused.
    """
    if approve is None:
        raise click.UsageError("Missing option '--approve' or '--deny'.", click.get_current_context())
    run(_answer(task_id, agent, comment, nats_url, config, approve=approve))


async def _answer(
    task_id: str, agent: str | None, comment: str, nats_url: str | None, config: Path | None, *, approve: bool
) -> None:
    async with coordinator(nats_url, config) as bus:
        sent = await bus.answer(task_id, approve=approve, comment=comment, agent=agent)
        if sent.known:
            output.remark(f"it was answered so before; {sent.task.id} is {sent.state}")
        await _say_if_nobody_is_there(bus, sent.task)
        output.json_line(sent.task.to_json())


@task.command(
    epilog="""\b
Examples:
  agentbus task retry task-20260518-k3v9…""",
)
@click.option("--agent", metavar="ID", type=AgentId(), help="The agent it was given to, if several have this task id.")
@bus_options
@click.argument("task_id", metavar="ID", type=TaskId())
def retry(task_id: str, agent: str | None, nats_url: str | None, config: Path | None) -> None:
    """Publish a settled task anew, under a new id; the new task names the old one in `retry_of`."""
    run(_retry(task_id, agent, nats_url, config))


async def _retry(task_id: str, agent: str | None, nats_url: str | None, config: Path | None) -> None:
    async with coordinator(nats_url, config) as bus:
        output.json_line((await bus.retry(task_id, agent=agent)).to_json())
