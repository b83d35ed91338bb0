"""The message ids of tasks, by which JetStream tells a task that is published again from another one."""

import re
from typing import Final

from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey

_PUBLICATION = re.compile(r"[A-Za-z0-9_-]{1,128}")
_REQUEUED: Final = "requeued."


def task_msg_id(key: TaskKey, publication: str | None) -> str:
    """`Nats-Msg-Id` of a task; it names agent and owner because the memory of ids is one for the whole stream.

    `publication` is the random part that the ledger entry holds, so that no other publisher can use the id first and
    have the task dropped as a duplicate; None for a task of a publisher that made none.
    """
    return f"{key.agent}.{subjects.owned(key.owner)}{key.id}" + (f".{publication}" if publication is not None else "")


def publication_of(msg_id: str, key: TaskKey) -> str | None:
    """The random part of the message id of a task, or None if it is not of that form."""
    prefix = task_msg_id(key, "")
    rest = msg_id.removeprefix(prefix)
    return rest if msg_id.startswith(prefix) and _PUBLICATION.fullmatch(rest) else None


def requeued_msg_id(seq: int, origin: str) -> str:
    """`Nats-Msg-Id` of the dead letter `seq` that is queued again; `origin` is the id that it had."""
    return f"{_REQUEUED}{seq}.{origin}"


def origin_of(msg_id: str) -> str | None:
    """The id that a message had before it became a dead letter, or None if it was not queued again."""
    _, dot, origin = msg_id.removeprefix(_REQUEUED).partition(".")
    return origin if msg_id.startswith(_REQUEUED) and dot else None


def task_of_msg_id(msg_id: str, agent: str, owner: str, *, has_publication: bool) -> TaskKey | None:
    """The task of `owner` for `agent` that a message id names, or None if it is not of that form."""
    prefix = task_msg_id(TaskKey(agent, "", owner), None)
    task = msg_id.removeprefix(prefix)
    if has_publication:
        task = task.rpartition(".")[0]
    return TaskKey(agent, task, owner) if msg_id.startswith(prefix) and subjects.is_task_id(task) else None
