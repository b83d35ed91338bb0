"""`agentbus work rescue`: shows what runs have left on this machine and no result names, and copies it."""

import sys
from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import FOLDER, config_option
from agentbus.errors import UnsupportedPlatformError, WorkError

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus_worker.bringing_home.rescue import KeptWork


@click.command(
    short_help="Show what runs have left on this machine and no result names.",
    epilog="""\b
Examples:
  agentbus work rescue --config code.toml
  agentbus work rescue --config code.toml fix-1 --to ~/rescued
  agentbus work rescue --config code.toml fix-1 --remove

\b
Run it on the worker's machine, as the worker's user. Work is kept there when its task was taken over while its worker
was away, or when the bus did not take all of it. A clone that is listed holds what a run was at work on.""",
)
@config_option("Configuration of the worker; default: where `agentbus worker run` looks.", "config_file")
@click.option("--to", "folder", metavar="FOLDER", type=FOLDER, help="Copy the files of the task ID below this folder.")
@click.option("--remove", is_flag=True, help="Remove what is kept of the task ID.")
@click.argument("task_id", metavar="[ID]", required=False)
def rescue(config_file: "Path | None", folder: "Path | None", task_id: str | None, *, remove: bool) -> None:
    """Show what runs of this machine's workers have left and no result names; copy or remove that of one task."""
    if sys.platform == "win32":
        raise UnsupportedPlatformError("workers do not run on Windows; run this on the machine of the worker")
    if task_id is None and (folder is not None or remove):
        raise click.UsageError("--to and --remove need the ID of a task")
    from agentbus_worker.bringing_home.rescue import kept_work  # noqa: PLC0415  # only here

    config, _ = lazy.loading.load_worker(config_file)
    found = [one for one in kept_work(config) if task_id is None or one.task == task_id]
    if not found and task_id is not None:
        raise WorkError(f"no work of the task {task_id} is kept on this machine; agentbus work rescue lists what is")
    if not found:
        output.remark(f"no work of the agent {config.agent.id} is kept on this machine")
    for one in found:
        _do(one, folder, remove=remove)


def _do(one: "KeptWork", folder: "Path | None", *, remove: bool) -> None:
    from agentbus_worker.bringing_home.rescue import forget, take  # noqa: PLC0415

    if folder is not None and one.parcel is not None:
        for path in take(one, folder.expanduser()):
            output.json_line({"task_id": one.task, "path": str(path)})
    elif not remove:
        output.json_line(one.to_json())
    if remove:
        forget(one)
