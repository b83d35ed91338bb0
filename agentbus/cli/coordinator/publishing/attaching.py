"""The options of commands that send files or commits with a task, and what they say of what is not sent."""

from typing import TYPE_CHECKING, Any, Final

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import PathType

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.tasks.work.attachments import Attachments

_NAMES: Final = ("attached", "base", "branch", "send_commits")


def attachment_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add the options; `take_attachments` takes them out of those that the command gets."""
    for option in (
        click.option(
            "--send-commits",
            is_flag=True,
            help="Send the commits of the repository here that it has not pushed; REF is looked up here, HEAD by "
            "default.",
        ),
        click.option("--branch", metavar="NAME", help="The branch to work on.  [default: agentbus/<id of the task>]"),
        click.option(
            "--base", metavar="REF", help="Of an agent with a repository: the branch, tag or commit to start from."
        ),
        click.option(
            "--attach",
            "attached",
            metavar="PATH",
            type=PathType(),
            multiple=True,
            help="Send a file, or a folder with all in it; the run finds it in $AGENTBUS_INPUTS. Repeatable.",
        ),
    ):
        command = option(command)
    return command


def take_attachments(options: dict[str, Any]) -> "Attachments | None":
    """Take the options out of those of a command, and return what the task brings; None if it is nothing."""
    brings = {name: options.pop(name) for name in _NAMES}
    return _attachments(**brings) if any(brings.values()) else None


def of_lines(attachments: "Attachments | None") -> "dict[str, Any]":
    """Return what the options mean for `--lines`: the folder of the files that lines name, and defaults of lines.

    Raises:
        UsageError: they mean nothing for many tasks.
    """
    files = attachments.files if attachments is not None else ()
    faults = {
        "--lines sends no commits.": attachments is not None and attachments.commits_of is not None,
        "With --lines, --attach names one folder, below which lines may name files.": len(files) > 1
        or any(not path.is_dir() for path in files),
    }
    for fault, is_there in faults.items():
        if is_there:
            raise click.UsageError(fault, click.get_current_context())
    named = {"base": attachments.base, "branch": attachments.branch} if attachments is not None else {}
    return {**named, "folder": next(iter(files), None)}


def _attachments(
    attached: "tuple[Path, ...]", base: str | None, branch: str | None, *, send_commits: bool
) -> "Attachments":
    here = lazy.pathlib.Path.cwd() if send_commits else None
    return lazy.attachments.Attachments(attached, base, branch, here)


async def tell_of_uncommitted(attachments: "Attachments | None" = None, **_: Any) -> None:
    """Say what of the repository here is not sent with its commits."""
    if attachments is None or attachments.commits_of is None:
        return
    if count := await lazy.sending.uncommitted_files(attachments.commits_of):
        files = "1 file is" if count == 1 else f"{count} files are"
        output.remark(f"{files} changed here and not committed; the task does not bring that")
