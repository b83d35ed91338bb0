"""`agentbus task publish`: publishes a task to one or several agents, or one for each line of its input."""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from agentbus.cli import lazy, output
from agentbus.cli.coordinator.publishing import content as contents
from agentbus.cli.coordinator.publishing.attaching import (
    attachment_options,
    of_lines,
    take_attachments,
    tell_of_uncommitted,
)
from agentbus.cli.options import (
    AgentId,
    TaskId,
    TaskName,
    bus_options,
    group_option,
    new_agent_option,
    timeout_option,
)
from agentbus.cli.waiting_tasks import warn_without_worker

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.coordinator import Coordinator
    from agentbus.protocol.json_codec import Json
    from agentbus.task_handle import PublishedTask


@click.command(
    short_help="Publish a task to one or several agents.",
    epilog="""\b
Examples:
  agentbus task publish --to code "Review PR 123 of org/repo"
  agentbus task publish --to code --to doc --task-type release --payload-fmt json '{"version": "1.2"}'
  agentbus task publish --to code @notes.md
  git diff | agentbus task publish --to code --task-type review
  agentbus task publish --to code --to doc --wait "Check the release notes" && ./deploy
  agentbus task publish --to code --group release-1.2 --lines < tasks.jsonl
  agentbus task publish --to code --task-type fix --attach trace.log --base main "Fix what trace.log shows"
  agentbus task publish --continue task-20260518-k3v9… "Now do the same for the tests"

\b
Prints the id of each task on a terminal, and each published message as one line of JSON in a pipe. With --wait
the lines are the tasks with their results, as `agentbus task wait --exit-status` prints them. With --lines it
prints one line for each line, with its number and the id of its task or what is wrong with it.""",
)
@click.option("--to", "targets", metavar="ID", type=AgentId(), multiple=True, help="Agent; repeatable.  [required]")
@click.option("--task-type", metavar="TYPE", help="What kind of task it is, e.g. review_pr.  [default: task]")
@click.option("--from", "sender", metavar="ID", type=AgentId(), help="Sender.  [default: the coordinator, main]")
@click.option("--reply-to", metavar="ID", type=AgentId(), help="Whose inbox gets the result.  [default: the sender]")
@click.option("--payload-fmt", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--task-id",
    metavar="ID",
    type=TaskId(),
    help="Your own id: publishing it again makes no second task. With several targets it becomes ID-<agent>.",
)
@group_option
@click.option(
    "--lines",
    is_flag=True,
    help="Publish a task for each line of standard input, a JSON object with content, to, task_type, task_id, from, "
    "reply_to, payload_fmt, group, files, base and branch; the options are for lines that leave them out. --attach "
    "names the folder below which lines may name files.",
)
@click.option(
    "--batch",
    metavar="NAME",
    type=TaskId(),
    help="Begins the ids of lines without a task_id, which are made of their contents: the same lines again make no "
    "second tasks, unless the batch has another name.  [default: lines]",
)
@click.option(
    "--continue",
    "continued",
    metavar="ID",
    type=TaskName(),
    help="Go on with the conversation of this task, in its session and folder; the agent and the type are those of it.",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="With --continue: where the session is gone, begin a new one with that task and its result.",
)
@new_agent_option
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for the results. The exit code is 0 only if all are completed; see `agentbus task wait --exit-status`.",
)
@timeout_option
@attachment_options
@bus_options
@click.argument("content", required=False)
def publish(
    content: str | None,
    nats_url: str | None,
    config: "Path | None",
    payload_fmt: Literal["text", "json"],
    lines: bool,
    batch: str | None,
    continued: str | None,
    fresh: bool,
    **options: Any,
) -> None:
    """Publish a task to one or several agents. CONTENT is its text.

    @FILE reads it from a file, `-` or a missing CONTENT from standard input. A text that begins with @ is written
    with @@. The command returns once the bus has stored every task on disk.
    """
    attachments = take_attachments(options)
    _check_usage(content, batch, lines=lines, continued=continued, fresh=fresh, **options)
    if lines:
        del options["wait"], options["timeout_s"]
        brings = of_lines(attachments)
        lazy.publish_lines.run(nats_url, config, batch, payload_fmt=payload_fmt, **brings, **options)
        return
    value = contents.read_content(content, payload_fmt)
    work = _publish if continued is None else partial(_follow_up, continued=continued, fresh=fresh)
    if attachments is not None:
        options["attachments"] = attachments
    lazy.session.run_connected(nats_url, config, partial(work, content=value, payload_format=payload_fmt, **options))


def _check_usage(
    content: str | None,
    batch: str | None,
    *,
    lines: bool,
    targets: tuple[str, ...],
    task_id: str | None,
    continued: str | None,
    fresh: bool,
    **waiting: Any,
) -> None:
    follows = continued is not None
    faults = {
        **_faults_of_follow_up(follows=follows, fresh=fresh, lines=lines, targets=targets),
        "Missing option '--to'.": not (lines or targets or follows),
        "--batch goes with --lines.": not lines and batch is not None,
        "CONTENT and --lines exclude each other.": lines and content is not None,
        "--task-id and --lines exclude each other: a line has a task_id of its own.": lines and task_id is not None,
        "With --lines, name one agent: a line is one task.": lines and len(targets) > 1,
        "--wait and --lines exclude each other.": lines and waiting["wait"],
        "--timeout goes with --wait.": waiting["timeout_s"] is not None and not waiting["wait"],
    }
    for fault, is_there in faults.items():
        if is_there:
            raise click.UsageError(fault, click.get_current_context())


def _faults_of_follow_up(*, follows: bool, fresh: bool, lines: bool, targets: tuple[str, ...]) -> dict[str, bool]:
    return {
        "--fresh goes with --continue.": fresh and not follows,
        "--continue and --lines exclude each other.": lines and follows,
        "--continue goes on with one task, of one agent.": follows and len(targets) > 1,
    }


async def _publish(
    bus: "Coordinator",
    *,
    targets: tuple[str, ...],
    content: "Json",
    wait: bool,
    timeout_s: float | None,
    task_type: str | None,
    new_agent: bool,
    **options: Any,
) -> None:
    from agentbus.task_handle import DEFAULT_TASK_TYPE, TaskFailure  # noqa: PLC0415

    if not new_agent:
        await lazy.new_agents.refuse_unknown(bus, targets)
    await tell_of_uncommitted(**options)
    outcomes = await bus.publish_to(targets, content, task_type=task_type or DEFAULT_TASK_TYPE, **options)
    failures = [one.error for one in outcomes if isinstance(one, TaskFailure)]
    published = [one for one in outcomes if not isinstance(one, TaskFailure)]
    await _told(bus, published, wait=wait, timeout_s=None if failures else timeout_s, failed=bool(failures))
    if failures:
        if len(outcomes) == 1:
            raise failures[0]
        raise click.ClickException(f"{len(failures)} of {len(outcomes)} not published: {failures[0]}")


async def _follow_up(
    bus: "Coordinator",
    *,
    continued: str,
    targets: tuple[str, ...],
    content: "Json",
    fresh: bool,
    wait: bool,
    timeout_s: float | None,
    **options: Any,
) -> None:
    del options["new_agent"]  # the bus has seen the agent of the task that this one goes on with
    await tell_of_uncommitted(**options)
    to = targets[0] if targets else None
    wanted = lazy.follow_ups.NewFollowUp(content, to=to, fresh=fresh, **options)
    task = await bus.task(continued).continue_with(wanted)
    if task.note is not None:
        output.remark(task.note)
    await _told(bus, [task], wait=wait, timeout_s=timeout_s)


async def _told(
    bus: "Coordinator", published: "list[PublishedTask]", *, wait: bool, timeout_s: float | None, failed: bool = False
) -> None:
    """Print the tasks, or wait for them: not where others are not published, because what is missing comes first."""
    await remark_published(bus, published)
    if wait and not failed:
        await lazy.awaited.wait_and_print(bus, published, timeout_s=timeout_s)
    else:
        print_published(published)
        if published and output.on_terminal():
            output.line(f"next: agentbus task wait {' '.join(task.id for task in published)}")


async def remark_published(bus: "Coordinator", published: "list[PublishedTask]") -> None:
    """Say on standard error what the one who published tasks should know of them."""
    for task in published:
        await warn_without_worker(bus, task.agent)
        if task.known:
            again = ", and its message is stored again" if task.stored_again else ""
            output.remark(f"the task {task.id} was published before{again}; it is {task.state_at_publish}")
    if published and output.on_terminal():
        output.remark(f"published as {bus.agent} on {bus.bus.settings.servers}")


def print_published(published: "list[PublishedTask]") -> None:
    """Print each task: its id and its agent on a terminal, its message as one line of JSON in a pipe."""
    for task in published:
        if output.on_terminal():
            output.line(output.Styled(task.id, bold=True), f" -> {task.agent}")
        else:
            output.json_line(task.message.to_json())
