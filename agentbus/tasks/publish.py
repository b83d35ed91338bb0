"""Publishing a task: its ledger entry first, then its message."""

from dataclasses import dataclass
from typing import Final

from agentbus.bus.bounds.result_room import ResultRoom
from agentbus.bus.jetstream import Bus, Stored
from agentbus.errors import (
    BusUnavailableError,
    MessageError,
    PermissionDeniedError,
    SetupMissingError,
    StreamFullError,
    TaskConflictError,
    TooLargeError,
    WrongRevisionError,
)
from agentbus.observability import tracing
from agentbus.protocol import ids, subjects
from agentbus.protocol.headers import REVISION
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Entry, Record, State, queued
from agentbus.protocol.messages import Task
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.tasks.ledger import Ledger

RESULT_RESERVE_BYTES: Final = 80 * 1024
"""A result embeds its task. It needs this much more: 64 KiB for the head of the output, its own fields, headers."""


@dataclass(frozen=True, slots=True)
class Published:
    """A task that is on the bus.

    Attributes:
        known: the task was published before, with the same content, under the same id.
        state: the state in the ledger.
    """

    task: Task
    known: bool
    state: State


async def publish(bus: Bus, task: Task, publisher: str) -> Published:
    """Publish a task; when this returns, JetStream has stored it.

    Publishing the same task again under the same id is harmless. Do that after a `BusUnavailableError`, which leaves
    open whether the task was stored.

    Raises:
        TaskConflictError: the id is taken by a task with other content.
        TooLargeError: the task, or the result that will embed it, does not fit into a message.
        SetupMissingError, StreamFullError, PermissionDeniedError: refused; nothing was queued. `StreamFullError` is
            also raised while there is hardly any room left for the result.
        BusUnavailableError: no answer in time; the task may or may not be queued.
    """
    agent, data = task.agent, encode(task.to_json())
    limit = max_task_bytes(bus)
    if len(data) > limit:
        raise TooLargeError(
            f"the task is {len(data)} bytes; this bus takes up to {limit}. Put the bulk where the agent can fetch it, "
            "or raise max_payload on the server"
        )
    if publisher != COORDINATOR and task.inbox(publisher) != publisher:
        raise MessageError(
            f"the results of a task of {publisher} go to its own inbox, not to that of {task.inbox(publisher)}; only "
            f"{COORDINATOR} can name another"
        )
    with tracing.publishing(agent, task.id, len(data)):
        return await _publish(bus, task, TaskKey(agent, task.id, publisher), data)


async def _publish(bus: Bus, task: Task, key: TaskKey, data: bytes) -> Published:
    ledger = Ledger(bus)
    entry = queued(task, task.inbox(key.owner), random_token())
    made = await _create(bus, ledger, key, entry, len(data))
    known = False
    if isinstance(made, Record):
        if made.entry.digest != task.digest():
            raise TaskConflictError(
                f"the id {task.id} belongs to another task of {key.agent} ({made.entry.state}); "
                "choose another id, or leave it out and get a new one"
            )
        # If the answer to the first write was lost, the entry that is there is this one.
        known = made.entry.publication != entry.publication
        if made.entry.state != "queued":
            return Published(task, known=known, state=made.entry.state)
        entry, revision = made.entry, made.revision
    else:
        revision = made
    try:
        stored = await _store(bus, key, data, entry, revision)
        if stored.duplicate and not known:
            # Either an answer was lost, and it was this one: then a worker meets a second message of a task that the
            # ledger knows, and drops it. Or another party has used the id first, and the task would never run.
            renamed = await _give_new_id(ledger, key, entry, revision)
            if renamed is not None:
                entry, revision = renamed
                await _store(bus, key, data, entry, revision)
    except (SetupMissingError, StreamFullError, PermissionDeniedError, TooLargeError) as error:
        if not known:
            await _remove_entry(ledger, key, revision)
        if isinstance(error, SetupMissingError) and key.owner != COORDINATOR:
            raise SetupMissingError(
                f"{error}; a bus of an earlier layout takes the tasks of {COORDINATOR} only: an administrator must run "
                "agentbus setup --update or, where parties have accounts, agentbus init --upgrade"
            ) from error
        raise
    except BusUnavailableError as error:
        raise BusUnavailableError(
            f"{error}; the task {task.id} may or may not be queued: publish it again with this id to be sure"
        ) from error
    return Published(task, known=known, state="queued")


async def _create(bus: Bus, ledger: Ledger, key: TaskKey, entry: Entry, size: int) -> Record | int:
    """Create the entry of a task unless there is one, and check meanwhile that its result will find room.

    Raises:
        StreamFullError: it hardly will; the entry is removed again.
    """
    room = ResultRoom(bus, key.agent, entry.inbox, size)
    try:
        made = await ledger.create(key, entry)
        if not isinstance(made, Record):
            try:
                await room.check()
            except StreamFullError:
                await _remove_entry(ledger, key, made)
                raise
        return made
    finally:
        room.close()


async def _store(bus: Bus, key: TaskKey, data: bytes, entry: Entry, revision: int) -> Stored:
    msg_id = ids.task_msg_id(key, entry.publication)
    headers = {REVISION: str(revision), **tracing.headers()}
    return await bus.store(subjects.tasks_of(key.agent, key.owner), data, msg_id=msg_id, headers=headers)


async def _give_new_id(ledger: Ledger, key: TaskKey, entry: Entry, revision: int) -> tuple[Entry, int] | None:
    """Give a queued entry another message id; returns it with its revision, or None if a worker has the task."""
    publication = random_token()
    while True:
        again = entry.model_copy(update={"publication": publication})
        try:
            return again, await ledger.write(key, again, revision=revision)
        except WrongRevisionError:
            found = await ledger.read_newer(key, revision)
            if not isinstance(found, Record) or found.entry.state != "queued":
                return None
            if found.entry.publication == publication:
                return found.entry, found.revision
            if found.revision == revision:
                raise
            entry, revision = found.entry, found.revision


def max_task_bytes(bus: Bus) -> int:
    """Return the size of the largest task that this bus can carry, with the result that will embed it."""
    return max(0, bus.max_message_bytes - RESULT_RESERVE_BYTES)


async def _remove_entry(ledger: Ledger, key: TaskKey, revision: int) -> None:
    """Remove the ledger entry of a task that the bus refused; an entry that cannot be removed expires."""
    try:
        await ledger.remove(key, revision=revision)
    except (WrongRevisionError, BusUnavailableError, PermissionDeniedError, SetupMissingError, StreamFullError):
        return
