"""Ids and tokens that this program makes: readable, and random where they must not be guessed; and message ids."""

import re
import secrets
from datetime import UTC, datetime
from typing import Final

from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey

# Lower-case letters and digits without those that are misread (0, o, 1, l, i, u): 30 of them, 4.9 bits each.
_ALPHABET: Final = b"23456789abcdefghjkmnpqrstvwxyz"
_SYMBOLS: Final = bytes(_ALPHABET[value % len(_ALPHABET)] for value in range(256))
_PUBLICATION = re.compile(r"[A-Za-z0-9_-]{1,128}")
_REQUEUED: Final = "requeued."
_AGAIN: Final = "-"
"""Stands in no random token, and may stand in what workers of all versions take for one."""
_UNEVEN: Final = bytes(range(256 - 256 % len(_ALPHABET), 256))


def random_token(chars: int = 20) -> str:
    """An unguessable, readable token; 20 characters carry 98 random bits."""
    symbols = b""
    while len(symbols) < chars:  # what is left of a byte's values beyond the last whole alphabet would favour its start
        symbols += secrets.token_bytes(2 * chars).translate(_SYMBOLS, _UNEVEN)
    return symbols[:chars].decode()


def new_task_id() -> str:
    """A task id that sorts by day, can be read aloud and cannot be guessed: `task-20260518-…`."""
    return f"task-{datetime.now(UTC):%Y%m%d}-{random_token()}"


def make_result_id(agent: str, task_id: str, nonce: str) -> str:
    """The id of the one result of a task: made from the random nonce of the claim that commits it.

    Unguessable, so that no other user can publish under it first and have the result dropped as a duplicate. The same
    however often the committed result is published again.
    """
    return f"result-{agent}-{task_id}-{nonce}"


# -- message ids, by which JetStream tells a task that is published again from another one ------------------------


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


def publication_again(publication: str | None, revision: int) -> str:
    """The random part for a task whose message is gone, and which is stored again while its entry is at `revision`.

    Two publishers that store it again at the same revision get the same one, so that the server keeps one message.
    """
    return f"{publication.partition(_AGAIN)[0][:100] if publication else random_token()}{_AGAIN}{revision}"


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
