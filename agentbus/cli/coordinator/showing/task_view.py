"""Prints one task: what it was about, what became of it, and its output."""

from typing import TYPE_CHECKING, Any

from agentbus.cli import lazy, output

if TYPE_CHECKING:
    from agentbus.protocol.json_codec import Json
    from agentbus.protocol.progress.events import ProgressMessage
    from agentbus.tasks.status import TaskStatus


def _conversation(tasks: list[str] | None) -> "dict[str, Json]":
    return {"conversation": [*tasks]} if tasks else {}


def show(
    status: "TaskStatus", progress: "ProgressMessage | None" = None, conversation: list[str] | None = None
) -> None:
    """Print a task: a table and its output on a terminal, one line of JSON in a pipe."""
    account = status.to_json() | _conversation(conversation)
    if not output.on_terminal():
        output.json_line({**account, **({"progress": progress.summary()} if progress else {})})
        return
    result: dict[str, Any] = account.pop("result", None) or {}
    account["state"] = status.state_in_words
    if progress:
        account["progress"] = progress.in_words
    account |= lazy.figures.of_run(status.run) if status.run else {}
    if account.pop("earlier_runs", None) and status.usage:
        account["all runs"] = lazy.figures.of_runs(status.usage)
    output.table(["", ""], [[key, str(value)] for key, value in account.items()])
    remark = f"({status.result.remark})" if status.result and status.result.remark else None
    for text in filter(None, (result.get("error"), result.get("result"), remark)):
        output.line(str(text))
