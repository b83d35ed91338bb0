"""`agentbus work`: shows what the run of a task has left, and takes it."""

import shlex
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import FOLDER, TaskName, agent_of_task_option, bus_options, with_coordinator
from agentbus.cli.work.rescue import rescue
from agentbus.errors import WorkError
from agentbus.terminal import RawOutput

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.coordinator import Coordinator
    from agentbus.tasks.status import TaskStatus

_SHOWN_LINES = 400
"""Of a patch that `work show` prints: some ten screens."""

_task_id = click.argument("task_id", metavar="ID", type=TaskName())


@click.group()
def work() -> None:
    """See what a task has left, and take it: files, and changes of a repository."""


@work.command(
    short_help="Show what a task has left.",
    epilog="""\b
Examples:
  agentbus work show code/fix-1

\b
On a terminal, a summary and the patch, which is cut after 400 lines. In a pipe, one object of JSON with the fields
artifacts, changes and left_out. The words are the agent's.""",
)
@agent_of_task_option
@_task_id
@with_coordinator
async def show(bus: "Coordinator", *, task_id: str, agent: str | None) -> None:
    """Show which files the run of a task has left, and what changed in its repository."""
    status = await bus.task(task_id, agent=agent).status()
    if not output.on_terminal():
        output.json_line(lazy.summary.work_json(status))
        return
    await _show(bus, status)


async def _show(bus: "Coordinator", status: "TaskStatus") -> None:
    if lazy.summary.print_work(status):
        patch = lazy.artifacts.artifact_named(status, lazy.results.PATCH)
        left = await lazy.diff_text.show_patch(lazy.artifacts.read_artifact(bus.bus, status, patch), _SHOWN_LINES)
        if left:
            output.remark(f"{left} lines more: agentbus work diff {status.name}")


@work.command(
    short_help="Print what a task changed, as a patch.",
    epilog="""\b
Examples:
  agentbus work diff code/fix-1
  agentbus work diff code/fix-1 | git apply --stat

\b
In a pipe, the patch is printed byte for byte.""",
)
@agent_of_task_option
@_task_id
@with_coordinator
async def diff(bus: "Coordinator", *, task_id: str, agent: str | None) -> None:
    """Print what the run of a task changed in its repository, as a patch."""
    status = await bus.task(task_id, agent=agent).status()
    if lazy.artifacts.changes_of(status) is None:
        raise WorkError(f"the task {status.name} has no changes of a repository; agentbus work show names what it left")
    patch = lazy.artifacts.artifact_named(status, lazy.results.PATCH)
    pieces = lazy.artifacts.read_artifact(bus.bus, status, patch)
    if output.on_terminal():
        await lazy.diff_text.show_patch(pieces)
        return
    raw = RawOutput()
    async for piece in pieces:
        raw.write(piece)
    raw.close()


@work.command(
    short_help="Save the files that a task has left.",
    epilog="""\b
Examples:
  agentbus work fetch code/fix-1
  agentbus work fetch code/fix-1 report.html --to ~/reports

\b
Prints a line for each file. No file is replaced: one that is there already must have the same content.""",
)
@click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    type=FOLDER,
    help="Where to save them, with the folders in their names.  [default: a folder with the id of the task, here]",
)
@agent_of_task_option
@_task_id
@click.argument("names", metavar="[NAME]...", nargs=-1)
@with_coordinator
async def fetch(
    bus: "Coordinator", *, task_id: str, names: tuple[str, ...], folder: "Path | None", agent: str | None
) -> None:
    """Save files that the run of a task has left; all of them, if no NAME is given."""
    status = await bus.task(task_id, agent=agent).status()
    listed = [lazy.artifacts.artifact_named(status, name) for name in dict.fromkeys(names)]
    wanted = listed or lazy.artifacts.artifacts_of(status)
    if not wanted:
        output.remark(f"the task {status.name} has left no files")
    place = lazy.pathlib.Path(status.task_id) if folder is None else folder.expanduser()
    async for saved in lazy.artifacts.save_artifacts(bus.bus, status, wanted, place):
        if not saved.new:
            output.remark(f"{saved.path} is there already")
        output.json_line({**saved.artifact.to_json(), "path": str(saved.path)})


@work.command(
    short_help="Compare what several tasks have left.",
    epilog="""\b
Examples:
  agentbus work compare code/fix-1 deep/fix-1""",
)
@agent_of_task_option
@click.argument("task_ids", metavar="ID...", type=TaskName(), nargs=-1, required=True)
@with_coordinator
async def compare(bus: "Coordinator", *, task_ids: tuple[str, ...], agent: str | None) -> None:
    """Compare the changes of several tasks: how large each is, and which files several of them change."""
    statuses = [await bus.task(task_id, agent=agent).status() for task_id in dict.fromkeys(task_ids)]
    compared = await lazy.comparison.compare(bus.bus, statuses)
    if not output.on_terminal():
        for one in compared.to_json():
            output.json_line(one)
        return
    lazy.summary.print_comparison(compared)


@work.command(
    short_help="Take the changes of a task into the repository here, as a branch.",
    epilog="""\b
Examples:
  agentbus work apply code/fix-1
  agentbus work apply code/fix-1 --merge

\b
Run it in a clone of the agent's repository. It makes the branch agentbus/<id of the task> and checks out nothing; run
again, it changes nothing. With --merge or --cherry-pick the branch that is checked out gets the changes as well: on a
terminal, after the patch was shown and you have said yes.""",
)
@click.option("--branch", metavar="NAME", help="The branch to make.  [default: agentbus/<id of the task>]")
@click.option("--take", metavar="BRANCH", help="Another branch that the run has left; agentbus work show names them.")
@click.option("--merge", is_flag=True, help="Merge it into the branch that is checked out.")
@click.option("--cherry-pick", is_flag=True, help="Make its commits anew on the branch that is checked out.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before the branch that is checked out is changed.")
@agent_of_task_option
@bus_options
@_task_id
def apply(
    nats_url: str | None,
    config: "Path | None",
    *,
    merge: bool,
    cherry_pick: bool,
    take: str | None,
    **options: Any,
) -> None:
    """Take what the run of a task changed into the repository of this folder, as a branch of its own.

    Every object is checked before the repository gets any, and no hook runs.
    """
    if merge and cherry_pick:
        raise click.UsageError("--merge and --cherry-pick exclude each other.", click.get_current_context())
    how = "merge" if merge else "cherry-pick" if cherry_pick else None
    if take is not None and how is not None:
        raise click.UsageError(_why_not_at_once(take, how, **options), click.get_current_context())
    lazy.session.run_connected(nats_url, config, partial(_apply, how=how, take=take, **options))


def _why_not_at_once(take: str, how: str, *, task_id: str, branch: str | None, **_: Any) -> str:
    """Say why a further branch is not merged in the same step, and with which commands it is."""
    made = lazy.own_repository.branch_for(lazy.task_names.task_name(task_id).task_id, branch, take=take)
    quoted = shlex.quote(made)
    return (
        f"--take makes a branch and no more: the patch of {take} was not brought home, so that nothing could be shown "
        f"before --{how}. Run this without it, look with `git log -p HEAD..{quoted}`, then "
        f"`git {how} {quoted if how == 'merge' else f'HEAD..{quoted}'}`"
    )


async def _apply(
    bus: "Coordinator",
    *,
    task_id: str,
    agent: str | None,
    branch: str | None,
    take: str | None,
    how: str | None,
    yes: bool,
) -> None:
    status = await bus.task(task_id, agent=agent).status()
    name = lazy.own_repository.branch_for(status.task_id, branch, take=take)
    own = await lazy.own_repository.own_repository(lazy.pathlib.Path.cwd())
    lazy.applying.changes_to_apply(status, take)
    current = await own.check_ready() if how is not None else None
    applied = await lazy.applying.apply(bus.bus, status, own, name, take)
    if applied.changes.secrets:
        output.remark(f"its commits have files that look like secrets: {', '.join(applied.changes.secrets)}")
    if applied.known:
        output.remark(f"the branch {name} has the work of {status.name} already")
    done = None
    if how is not None:
        lazy.applying.check_harmless(applied)
        if not yes and output.on_terminal():
            await _show(bus, status)
            click.confirm(f"{how} {name} into {current}?", abort=True, err=True)
        done = await own.merge(name) if how == "merge" else bool(await own.cherry_pick(applied.changes.base, name))
        output.remark(f"{current} has the work of {status.name} {'now' if done else 'already'}")
    else:
        for line in lazy.summary.next_steps(applied):
            output.remark(line)
    output.json_line(
        {
            "id": status.task_id,
            "branch": name,
            "known": applied.known,
            **{key: value for key, value in applied.changes.to_json().items() if key not in _not_told(take)},
            "into": current,
            "done": done,
        }
    )


def _not_told(take: str | None) -> tuple[str, ...]:
    """Return the fields of changes that are not printed: `branch` is the one that was made."""
    return ("branch", "log", *(("files", "insertions", "deletions") if take else ()))


work.add_command(rescue)
