"""Ends commands that have waited for tasks: prints what became of them, and says it with the exit code."""

from collections.abc import Mapping, Sequence

import click

from agentbus.cli import exit_codes, output
from agentbus.cli.coordinator.publishing.following import Following
from agentbus.cli.coordinator.showing.task_view import show
from agentbus.coordinator import Coordinator
from agentbus.task_handle import TaskHandle
from agentbus.tasks.status import TaskStatus, Waited


async def wait_and_print(bus: Coordinator, tasks: Sequence[TaskHandle], *, timeout_s: float | None) -> None:
    """Wait for tasks that were published just now, print each with its result, and end as `end_of_wait` does."""
    if not output.on_terminal():
        for task in tasks:  # the lines on standard output come with the results
            output.remark(f"{task.id}: published for {task.agent}")
    waited = await Following(bus, tasks, timeout_s).run()
    for status in waited.settled.values():
        show(status)
    end_of_wait(waited, timeout_s, any_is_enough=False, exit_status=True)


def end_of_wait(waited: Waited, timeout_s: float | None, *, any_is_enough: bool, exit_status: bool) -> None:
    """Say what is still pending, and end the command.

    Raises:
        ClickException: something is, and the exit code does not say more than that.
        Exit: with the exit code of what became of the tasks, if that is not 0.
    """
    over = {} if any_is_enough and waited.settled else waited.pending
    for task_id, status in over.items():
        if status.loss_note:
            output.remark(f"warning: {task_id} {status.loss_note}")
    if over:
        listed = ", ".join(f"{task_id} ({status.state})" for task_id, status in over.items())
        pending = f"still pending after {timeout_s or 0:g} s: {listed}"
        if not exit_status:
            raise click.ClickException(pending)
        output.remark(pending)
    if exit_status and (code := _code(waited, over)):
        raise click.exceptions.Exit(code)


def _code(waited: Waited, over: Mapping[str, TaskStatus]) -> int:
    """Return the exit code of what became of the tasks, of which these have no result in time."""
    for task_id, error in waited.unreadable.items():
        output.remark(f"warning: {task_id} cannot be read: {error}")
    states = [status.state for status in (*waited.settled.values(), *over.values())]
    return exit_codes.of_states([*states, *("unreadable" for _ in waited.unreadable)])
