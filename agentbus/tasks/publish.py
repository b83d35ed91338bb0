"""Publishing a task: its ledger entry first, then its message."""

import asyncio
from dataclasses import dataclass
from typing import Final

from agentbus.bus.bounds.task_room import task_room
from agentbus.bus.jetstream import Bus, Stored
from agentbus.errors import (
    BusError,
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
from agentbus.protocol.headers import MSG_ID, REVISION
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Entry, NoEntry, Record, State, queued
from agentbus.protocol.messages import Task
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.tasks.ledger import Ledger

PUBLICATION_S: Final = 60.0
"""How long one publication may take, with all that is repeated while a server starts or elects a leader."""
LOST_AFTER_S: Final = 2 * PUBLICATION_S
"""How long an entry is queued, unchanged, before a task without a message is lost: no publication takes so long."""
_TAKE_BACK_PAUSE_S: Final = 0.5
RESULT_RESERVE_BYTES: Final = 80 * 1024
"""A result embeds its task. It needs this much more: 64 KiB for the head of the output, its own fields, headers."""
_OF_NEW_ENTRY: Final = frozenset(
    ("state", "digest", "sender", "inbox", "task_type", "created_at", "publication", "needs", "continues", "about"),
)
"""The fields of an entry that no worker has claimed and no coordinator has cancelled, and that a worker can make from
the message. One of an earlier version would make it without a group: of such a task it has to read the entry."""


@dataclass(frozen=True, slots=True)
class Published:
    """A task that is on the bus.

    Attributes:
        known: the task was published before, with the same content, under the same id.
        state: the state in the ledger.
        stored_again: the message of the known task was stored again: the queue did not hold it, or may not have.
        note: what the publisher should know of who can take it; None of nothing.
    """

    task: Task
    known: bool
    state: State
    stored_again: bool = False
    note: str | None = None


async def publish(bus: Bus, task: Task, publisher: str) -> Published:
    """Publish a task; when this returns, JetStream has stored it.

    Publishing the same task again under the same id is harmless. Do that after a `BusUnavailableError`, which leaves
    open whether the task was stored, and where the queue has lost a task: then it is stored again.

    A caller that is cancelled leaves no half of a publication behind: it is taken back as long as its message was not
    sent, and finished from then on; see `BegunSteps.finish`. The log tells where the bus did not answer for that. Which
    it was, publishing again tells; a look at the ledger of a cluster may show what was taken back.

    Raises:
        TaskConflictError: the id is taken by a task with other content.
        TooLargeError: the task, or the result that will embed it, does not fit into a message.
        SetupMissingError, StreamFullError, PermissionDeniedError: refused; nothing was queued. `StreamFullError` is
            also raised while there is hardly any room left for its state or its result.
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
    return await bus.begun.finish(_publish_within(bus, task, TaskKey(agent, task.id, publisher), data))


async def _publish_within(bus: Bus, task: Task, key: TaskKey, data: bytes) -> Published:
    """Publish within `PUBLICATION_S`."""
    with tracing.publishing(key.agent, key.id, len(data)):
        try:
            async with asyncio.timeout(PUBLICATION_S):
                return await _publish(bus, task, key, data)
        except TimeoutError:
            raise _unsure(task, f"the bus did not store the task within {PUBLICATION_S:g} s") from None


async def _publish(bus: Bus, task: Task, key: TaskKey, data: bytes) -> Published:
    ledger = Ledger(bus)
    entry = queued(task, task.inbox(key.owner), random_token())
    made = await _create(bus, ledger, key, entry, len(data))
    if isinstance(made, Record):
        if made.entry.digest != task.digest():
            raise TaskConflictError(
                f"the id {task.id} belongs to another task of {key.agent} ({made.entry.state}); "
                "choose another id, or leave it out and get a new one"
            )
        # If the answer to the first write was lost, the entry that is there is this one.
        known, revision = made.entry.publication != entry.publication, made.revision
        if known and made.entry.created_at is not None:  # what is told of it is what the bus has
            task = task.as_kept(made.entry.created_at, made.entry.group)
        if made.entry.state != "queued":
            return Published(task, known=known, state=made.entry.state)
        if known:
            return await _publish_known(bus, task, made, data)
    else:
        revision = made
    if bus.begun.given_up:  # no caller waits for a task that is not on its way yet
        await _take_back(bus, task, key, revision)
        raise asyncio.CancelledError
    try:
        await _store_new(bus, key, data, entry, revision)
    except SetupMissingError as error:
        _raise_earlier_layout(error, key, entry)
        raise
    except BusUnavailableError as error:
        raise _unsure(task, str(error)) from error
    return Published(task, known=False, state="queued")


async def _publish_known(bus: Bus, task: Task, record: Record, data: bytes) -> Published:
    """Make sure that a task that the ledger has as queued lies in the queue, and say what became of it."""
    try:
        return await _store_known(bus, task, record, data)
    except SetupMissingError as error:
        _raise_earlier_layout(error, record.key, record.entry)
        raise
    except BusUnavailableError as error:
        raise _unsure(task, str(error)) from error


def _raise_earlier_layout(error: BusError, key: TaskKey, entry: Entry) -> None:
    """Raise what is said where a bus of an earlier layout has no stream for tasks of the second form."""
    if isinstance(error, SetupMissingError) and (key.owner != COORDINATOR or entry.in_second_form):
        takes = f"the tasks of {COORDINATOR}" if key.owner != COORDINATOR else "tasks that go on with no conversation"
        raise SetupMissingError(
            f"{error}; a bus of an earlier layout takes {takes} only: an administrator must run "
            "agentbus setup --update or, where parties have accounts, agentbus init --upgrade"
        ) from error


def _unsure(task: Task, why: str) -> BusUnavailableError:
    return BusUnavailableError(
        f"{why}; the task {task.id} may or may not be queued: publish it again with this id to be sure"
    )


async def _create(bus: Bus, ledger: Ledger, key: TaskKey, entry: Entry, size: int) -> Record | int:
    """Create the entry of a task unless there is one, and check meanwhile that it will find room until its end.

    Raises:
        StreamFullError: it hardly will; no entry is left.
    """
    room = task_room(bus, key.agent, entry.inbox, size)
    if room.was_full and (full := await room.refusal()) is not None:
        found = await ledger.read(key)
        if isinstance(found, Record):
            return found
        raise full
    try:
        made = await ledger.create(key, entry)
    except StreamFullError as error:
        raise await room.refusal(again=True) or error from error
    if not isinstance(made, Record) and (full := await room.refusal()) is not None:
        await _remove_entry(ledger, key, made)
        raise full
    return made


async def _store_new(bus: Bus, key: TaskKey, data: bytes, entry: Entry, revision: int) -> None:
    """Store the message of a new entry, which is removed again where the bus refuses the message."""
    try:
        stored = await _store(bus, key, data, entry, revision)
        if not stored.duplicate or await _seen_in_queue(bus, key, entry, stored.seq):
            return
        # Another party has used the id first, and the task would never run. Or it is this message, of which an answer
        # was lost, or that of a publisher that has found the entry. Then a worker meets a second message of a task that
        # the ledger knows, and drops it.
        entry, revision = await _write_queued(bus, key, entry, revision, publication=random_token())
        if entry.state == "queued":
            await _store(bus, key, data, entry, revision)
    except (SetupMissingError, StreamFullError, PermissionDeniedError, TooLargeError):
        await _remove_entry(Ledger(bus), key, revision)
        raise


async def _store_known(bus: Bus, task: Task, record: Record, data: bytes) -> Published:
    """Store the message of a queued task unless it lies in the queue.

    Its publisher may have died before it had stored it, or the queue has lost it. A reader that has found the task lost
    settles it by compare-and-set. So the entry is written after the message was stored, or was seen, and before it is
    stored under another id: then either the reader is refused, or this sees the task settled.
    """
    key, entry, revision, publication = record.key, record.entry, record.revision, record.entry.publication
    stored = await _store(bus, key, data, entry, revision)
    if stored.duplicate:
        if await _lies_in_queue(bus, record, stored.seq):
            # Another publisher may have stored it just now, after a reader had found it missing.
            now = await keep_queued(bus, record) if bus.reads_queue else record
            return Published(task, known=True, state=now.entry.state if isinstance(now, Record) else "queued")
        publication = ids.publication_again(publication, revision)
    entry, revision = await _write_queued(bus, key, entry, revision, publication=publication)
    if entry.state == "queued" and stored.duplicate:
        await _store(bus, key, data, entry, revision)
    return Published(task, known=True, state=entry.state, stored_again=entry.state == "queued")


async def _lies_in_queue(bus: Bus, record: Record, seq: int) -> bool:
    """Return whether the queue still has the message of a task that it once stored at `seq`.

    A party that may not read the queue takes it to be gone where no message of the same subject is left, and where the
    entry has not changed for long: two messages of one task have one result.
    """
    if (seen := await _seen_in_queue(bus, record.key, record.entry, seq)) is not None:
        return seen
    subject = subjects.tasks_of(record.agent, record.owner, second=record.entry.in_second_form)
    try:
        stream = await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=subject)
    except PermissionDeniedError:
        return True  # as far as this user can know
    age_s = (stream.server_time - record.changed_at).total_seconds() if stream.server_time is not None else 0.0
    return subject in (stream.state.subjects or {}) and age_s < LOST_AFTER_S


async def _seen_in_queue(bus: Bus, key: TaskKey, entry: Entry, seq: int) -> bool | None:
    """Return whether the message at `seq` is that of a task; None for a party that may not read the queue."""
    if not bus.reads_queue:
        return None
    try:
        subject = subjects.tasks_of(key.agent, key.owner, second=entry.in_second_form)
        message = await bus.next_at_the_leader(subjects.TASKS_STREAM, subject, seq)
    except PermissionDeniedError:
        bus.reads_queue = False
        return None
    msg_id = ids.task_msg_id(key, entry.publication)
    return message is not None and message.seq == seq and message.headers.get(MSG_ID) == msg_id


async def _store(bus: Bus, key: TaskKey, data: bytes, entry: Entry, revision: int) -> Stored:
    """Store the message of a task; where its entry is a new one, with the revision at which a worker claims it."""
    msg_id, headers = ids.task_msg_id(key, entry.publication), tracing.headers()
    if entry.publication is not None:  # beside an older message id, which has no random part, workers take no revision
        # An entry that was claimed or cancelled before says more than the message. At revision 0 there is none, so a
        # worker reads what there is in place of claiming the task as a new one.
        new = entry.model_fields_set <= _OF_NEW_ENTRY or entry.model_dump(exclude_defaults=True).keys() <= _OF_NEW_ENTRY
        headers[REVISION] = str(revision if new else 0)
    subject = subjects.tasks_of(key.agent, key.owner, second=entry.in_second_form)
    return await bus.store(subject, data, msg_id=msg_id, headers=headers)


async def _write_queued(
    bus: Bus, key: TaskKey, entry: Entry, revision: int, *, publication: str | None
) -> tuple[Entry, int]:
    """Write a queued entry with this random part of its message id, on top of what others write meanwhile.

    Returns what the ledger has then, with its revision: in another state than queued if a worker has the task by now.
    """
    ledger = Ledger(bus)
    while True:
        entry = entry.model_copy(update={"publication": publication})
        try:
            return entry, await ledger.write(key, entry, revision=revision)
        except WrongRevisionError as refusal:
            found = await ledger.read_refused(key, revision, refusal)
            if found.revision == revision:
                raise
            revision = found.revision
            if isinstance(found, Record):  # else another publisher has taken it back, which the bus refused
                entry = found.entry
                if entry.state != "queued":
                    return entry, revision


async def keep_queued(bus: Bus, record: Record) -> Record | NoEntry:
    """Write the entry of a task once more, unchanged, if it is queued; return what the ledger has then.

    A reader that has found the task lost is refused from then on, because the entry has changed. Without the right to
    write it, nothing changes.

    Raises:
        BusError: the ledger cannot be read or written now.
    """
    ledger, found = Ledger(bus), record
    while found.entry.state == "queued":
        try:
            await ledger.write(found.key, found.entry, revision=found.revision)
        except PermissionDeniedError:
            pass
        except WrongRevisionError as refusal:
            newer = await ledger.read_refused(found.key, found.revision, refusal)
            if newer.revision == found.revision:
                raise
            if not isinstance(newer, Record):
                return newer
            found = newer
            continue
        break
    return found


def max_task_bytes(bus: Bus) -> int:
    """Return the size of the largest task that this bus can carry, with the result that will embed it."""
    return max(0, bus.max_message_bytes - RESULT_RESERVE_BYTES)


async def _take_back(bus: Bus, task: Task, key: TaskKey, revision: int) -> None:
    """Remove the entry of a publication whose caller has gone, also while the servers of a cluster elect a leader.

    Raises:
        BusError: it may be left, and then nothing will run it.
    """
    while True:
        try:
            await Ledger(bus).remove(key, revision=revision)
        except WrongRevisionError:
            pass  # an attempt whose answer was lost has removed it, or another party has taken the task on
        except BusUnavailableError as error:
            if bus.closed:
                raise _unsure(task, str(error)) from error
            await asyncio.sleep(_TAKE_BACK_PAUSE_S)
            continue
        return


async def _remove_entry(ledger: Ledger, key: TaskKey, revision: int) -> None:
    """Remove the ledger entry of a task that the bus refused; an entry that cannot be removed expires."""
    try:
        await ledger.remove(key, revision=revision)
    except (WrongRevisionError, BusUnavailableError, PermissionDeniedError, SetupMissingError, StreamFullError):
        return
