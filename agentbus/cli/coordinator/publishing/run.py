"""`agentbus run`: publishes a task, waits for it, and prints its answer."""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from agentbus.cli import exit_codes, lazy, output
from agentbus.cli.coordinator.publish import remark_published
from agentbus.cli.coordinator.publishing.attaching import attachment_options, take_attachments, tell_of_uncommitted
from agentbus.cli.coordinator.publishing.content import read_content
from agentbus.cli.options import AgentId, TaskId, bus_options, group_option, new_agent_option, timeout_option
from agentbus.errors import CorruptEntryError

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.coordinator import Coordinator
    from agentbus.protocol.json_codec import Json
    from agentbus.task_handle import PublishedTask
    from agentbus.tasks.work.attachments import Attachments


@click.command(
    short_help="Give an agent a task, wait for it, and print its answer.",
    epilog="""\b
Examples:
  agentbus run code "Review PR 123 of org/repo"
  git diff | agentbus run code > review.md
  agentbus run code @notes.md --timeout 10m && ./deploy
  agentbus run code --attach trace.log --base main "Fix what trace.log shows"
  agentbus run code "Sum up last week" --detach

\b
The answer alone is on standard output; what the task does, and what went wrong, is on standard error.
Exit codes: 0 completed, and no other; 3 it needs an approval; 4 cancelled; 5 no result within --timeout;
6 failed; 1 an error before there is a result; 2 wrong usage; 130 Ctrl-C. Ctrl-C leaves the task to the agent
and says how to go on with it; a second one within two seconds cancels it.""",
)
@click.option("--task-type", metavar="TYPE", default="task", show_default=True, help="What kind of task it is.")
@click.option(
    "--task-id", metavar="ID", type=TaskId(), help="Your own id: with the same one again, the same task is waited for."
)
@click.option("--payload-fmt", type=click.Choice(["text", "json"]), default="text", show_default=True)
@group_option
@click.option("--detach", is_flag=True, help="Print the id of the task in place of waiting for it.")
@new_agent_option
@timeout_option
@attachment_options
@bus_options
@click.argument("agent", metavar="AGENT", type=AgentId())
@click.argument("content", required=False)
def run(
    agent: str,
    content: str | None,
    payload_fmt: Literal["text", "json"],
    nats_url: str | None,
    config: "Path | None",
    *,
    detach: bool,
    timeout_s: float | None,
    **options: Any,
) -> None:
    """Publish a task for AGENT, wait for its result, and print the answer. CONTENT is its text.

    @FILE reads it from a file, `-` or a missing CONTENT from standard input. A text that begins with @ is written
    with @@.
    """
    if detach and timeout_s is not None:
        raise click.UsageError("--detach and --timeout exclude each other.", click.get_current_context())
    value = read_content(content, payload_fmt)
    options |= {"payload_format": payload_fmt, "attachments": take_attachments(options)}
    work = _detach if detach else partial(_follow, timeout_s=timeout_s)
    lazy.session.run_connected(nats_url, config, partial(work, agent=agent, content=value, **options))


async def _detach(bus: "Coordinator", **options: Any) -> None:
    task = await _published(bus, **options)
    output.line(task.id)
    await remark_published(bus, [task])
    if output.on_terminal():
        output.remark(f"next: agentbus task wait {task.id}")


async def _follow(bus: "Coordinator", *, timeout_s: float | None, **options: Any) -> None:
    task = await _published(bus, **options)
    output.remark(f"{task.id} -> {task.agent}")
    await remark_published(bus, [task])
    waited = await lazy.following.Following(bus, [task], timeout_s).run()
    for error in waited.unreadable.values():
        raise CorruptEntryError(str(error))
    for status in waited.settled.values():
        await lazy.answer.print_answer(task, status)
        if code := exit_codes.of_states([status.state]):
            raise click.exceptions.Exit(code)
    if waited.pending:
        lazy.awaited.end_of_wait(waited, timeout_s, any_is_enough=False, exit_status=True)


async def _published(
    bus: "Coordinator",
    *,
    agent: str,
    content: "Json",
    new_agent: bool,
    attachments: "Attachments | None",
    **options: Any,
) -> "PublishedTask":
    if not new_agent:
        await lazy.new_agents.refuse_unknown(bus, [agent])
    if attachments is None:
        return await bus.publish(agent, content, **options)
    await tell_of_uncommitted(attachments)
    brings = {name: getattr(attachments, name) for name in ("files", "base", "branch", "commits_of")}
    return await bus.publish(agent, content, **brings, **options)
