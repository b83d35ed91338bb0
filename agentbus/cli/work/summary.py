"""Prints what tasks have left: for a terminal as a summary, in a pipe as JSON."""

from agentbus.cli import output
from agentbus.cli.output import Styled, line
from agentbus.protocol.json_codec import Json
from agentbus.protocol.work.results import PATCH, Changes, left_out_in
from agentbus.tasks.status import TaskStatus
from agentbus.tasks.work.applying import Applied
from agentbus.tasks.work.artifacts import artifacts_of, changes_of
from agentbus.tasks.work.comparison import Comparison

_SHORT_COMMIT = 12


def work_json(status: TaskStatus) -> dict[str, Json]:
    """Return what a task has left, as one object."""
    changes = changes_of(status)
    return {
        "id": status.task_id,
        "agent": status.agent,
        "state": status.state,
        "artifacts": [one.to_json() for one in artifacts_of(status)],
        "changes": changes.to_json() if changes else None,
        "left_out": [one.to_json() for one in left_out_in(status.record.entry.result or {})],
    }


def print_work(status: TaskStatus) -> bool:
    """Print what a task has left; return whether there is a patch to show beside it."""
    artifacts, changes = artifacts_of(status), changes_of(status)
    line(Styled(str(status.name), bold=True), f"  {status.state_in_words}")
    if changes is not None:
        _print_changes(changes)
    if artifacts:
        output.table(("FILE", "BYTES", "TYPE"), [(one.name, f"{one.bytes:,}", one.media_type) for one in artifacts])
    for one in left_out_in(status.record.entry.result or {}):
        line(Styled("left out: ", "yellow"), f"{one.name}  ({one.why})")
    if not artifacts and changes is None:
        line("it has left no files, and its agent works in no repository")
    return changes is not None and any(one.name == PATCH for one in artifacts)


def _print_changes(changes: Changes) -> None:
    base = changes.base_ref or changes.base[:_SHORT_COMMIT]
    line(
        f"branch {changes.branch}, from {base}: {_count(changes.commits, 'commit')}, {_count(changes.files, 'file')}, ",
        Styled(f"+{changes.insertions}", "green"),
        " ",
        Styled(f"-{changes.deletions}", "red"),
    )
    for commit in changes.log:
        line("  ", Styled(commit.id[:_SHORT_COMMIT], "yellow"), f" {commit.title}")
    if (more := changes.commits - len(changes.log)) > 0:
        line(f"  and {_count(more, 'commit')} more")
    if changes.uncommitted:
        line("the last commit is the worker's: it holds what the agent had not committed")
    for other in changes.branches:
        line(f"branch {other.branch}: {_count(other.commits, 'commit')}, taken with agentbus work apply --take")
    for name in changes.secrets:
        line(Styled("looks like a secret: ", "yellow"), f"{name}  (a commit of the run has it)")
    for one in changes.left_out:
        line(Styled("left out: ", "yellow"), f"{one.name}  ({one.why})")
    if (more := changes.left_out_count - len(changes.left_out)) > 0:
        line(Styled("left out: ", "yellow"), f"{_count(more, 'file')} more")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def print_comparison(compared: Comparison) -> None:
    """Print how large the changes of tasks are, and the files that several of them change."""
    rows = [
        (one.name, one.state, str(one.commits), str(one.files), f"+{one.insertions} -{one.deletions}", str(one.shared))
        for one in compared.tasks
    ]
    output.table(("TASK", "STATE", "COMMITS", "FILES", "LINES", "FILES OF OTHERS, TOO"), rows)
    for file, names in compared.overlapping:
        line(Styled(file, "yellow"), f"  {', '.join(names)}")
    if compared.overlapping_left:
        line(f"and {_count(compared.overlapping_left, 'file')} more")
    if not compared.overlapping:
        line("no file is changed by more than one of them")


def next_steps(applied: Applied) -> list[str]:
    """Say what a person can do with the branch that has the work of a task."""
    branch, base = applied.branch, applied.changes.base[:_SHORT_COMMIT]
    steps = [
        f"see it: git log -p {base}..{branch}",
        f"take it: git merge {branch}, or git cherry-pick {base}..{branch}",
    ]
    if applied.acting:
        steps.append(f"look first at what it changes in {', '.join(applied.acting[:5])}: git does what they say")
    return steps
