"""Reads, requeues and deletes dead letters: messages that no worker could accept. For administrators."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from agentbus.bus.audit_note import note
from agentbus.bus.bounds.subject_counts import subject_counts
from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.reading.ephemeral_consumers import position_before_newest
from agentbus.errors import ApiError, BusUnavailableError, DeadLetterMissingError, MessageError, RequeueError
from agentbus.observability import tracing
from agentbus.protocol import ids, subjects
from agentbus.protocol.audit.names import Verb
from agentbus.protocol.conversations.continuation import needs_of
from agentbus.protocol.headers import (
    DEAD_ORIGIN,
    DEAD_REASON,
    DEAD_SHA256,
    DEAD_SIZE,
    DEAD_WORKER,
    MSG_ID,
    Headers,
    number,
)
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.messages import decode_task
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.lost.lost_tasks import LOST
from agentbus.tasks.publish import PUBLICATION_S, keep_queued
from agentbus.tasks.status import TaskStatus


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that no worker accepted.

    Attributes:
        publisher: the party that published it, as its subject said; `main` where that named none.
        size: the size of the message; `data` is the part of it that was stored.
    """

    seq: int
    agent: str
    publisher: str
    reason: str
    worker: str
    stored_at: datetime
    origin: str
    size: int
    sha256: str
    data: bytes
    trace: Headers = field(default_factory=dict[str, str], repr=False)

    @property
    def complete(self) -> bool:
        """Whether all of the message was stored."""
        return len(self.data) == self.size

    def to_json(self, *, with_data: bool = False) -> dict[str, Json]:
        """Return the letter as a JSON object, with the stored message as text if `with_data`."""
        fields: dict[str, Json] = {
            "seq": self.seq,
            "agent": self.agent,
            "publisher": self.publisher,
            "reason": self.reason,
            "worker": self.worker,
            "buried_at": self.stored_at.isoformat(),
            "origin": self.origin,
            "bytes": self.size,
            "kept": len(self.data),
            "sha256": self.sha256,
        }
        return {**fields, "data": self.data.decode(errors="replace")} if with_data else fields


async def newest_dead_letters(bus: Bus, count: int, *, agent: str | None = None) -> list[DeadLetter]:
    """Read the newest dead letters of one agent, or of all, oldest first.

    A worker that died before it had got rid of a message leaves a second letter of it. It is left out here.

    Raises:
        SetupMissingError: there is no stream for them.
        PermissionDeniedError: this user may not read them.
    """
    subject = subjects.all_of(agent or "*")
    start = await position_before_newest(bus, subjects.DEAD_STREAM, subject, count)
    async with OrderedConsumer(bus, subjects.DEAD_STREAM, subject, after=start) as consumer:
        found = [
            _read(message.stream_seq, message.subject, message.headers, message.data, message.stored_at)
            async for message in consumer.backlog()
        ]
    newest = {(one.agent, one.publisher, one.origin or one.seq, one.sha256): one for one in found[-count:]}
    return list(newest.values())


@dataclass(frozen=True, slots=True)
class FullParty:
    """A publisher whose dead letters of one agent are at their bound, so that each new one pushes out the oldest."""

    agent: str
    publisher: str
    kept: int
    since: datetime


@dataclass(frozen=True, slots=True)
class PushedOut:
    """What is known of dead letters, of all agents, that went before they were as old as the stream keeps them.

    Attributes:
        gone: how many. Those that an administrator requeued or dropped count too: the server does not tell them apart.
        at_least: more may have gone. Once letters have expired, only those between others can be counted.
        parties: the publishers that push out letters of their own. They can push out no other ones.
    """

    gone: int
    at_least: bool
    parties: tuple[FullParty, ...]

    def lines(self) -> list[str]:
        """Say it in words."""
        more = "at least " if self.at_least else ""
        return [
            f"{more}{self.gone} dead letters are gone early: pushed out by newer ones, requeued or dropped",
            *(
                f"{one.agent}, from {one.publisher}: at its bound of {one.kept}, so its oldest go; what is left begins "
                f"at {one.since:%Y-%m-%d %H:%M}"
                for one in self.parties
            ),
        ]


async def pushed_out(bus: Bus, *, agent: str | None = None) -> PushedOut | None:
    """Read how many dead letters went early, and whose; None if no publisher is at its bound.

    Raises:
        SetupMissingError: there is no stream for them.
        PermissionDeniedError: this user may not read them.
    """
    info = await bus.stream_info(subjects.DEAD_STREAM)
    parties = await _at_their_bound(bus, info.max_per_subject, agent) if info.max_per_subject > 0 else ()
    if not parties:
        return None
    young = info.created and info.server_time and (info.server_time - info.created).total_seconds() < info.max_age_s
    gone = info.state.last_seq - info.state.messages if young else info.state.num_deleted
    return PushedOut(gone, at_least=not young, parties=parties)


async def _at_their_bound(bus: Bus, bound: int, agent: str | None) -> tuple[FullParty, ...]:
    counts = await subject_counts(bus, subjects.DEAD_STREAM, subjects.all_of(agent or "*"))
    found: list[FullParty] = []
    for subject in sorted(subject for subject, kept in counts.items() if kept >= bound):
        names = subjects.agent_and_party(subject, "dead")
        oldest = await bus.next_message(subjects.DEAD_STREAM, subject, 1)
        if names and oldest:
            found.append(FullParty(names[0], names[1] or COORDINATOR, counts[subject], oldest.time))
    return tuple(found)


async def dead_letter(bus: Bus, seq: int) -> DeadLetter:
    """Read one dead letter.

    Raises:
        DeadLetterMissingError: there is none with this number.
    """
    try:
        message = await bus.message(subjects.DEAD_STREAM, seq)
    except ApiError as error:
        raise DeadLetterMissingError(f"there is no dead letter {seq}") from error
    if message is None:
        raise DeadLetterMissingError(f"there is no dead letter {seq}")
    return _read(seq, message.subject, message.headers, message.data, message.time)


async def requeue(bus: Bus, seq: int) -> DeadLetter:
    """Publish a dead letter as a task again, and delete the letter.

    Raises:
        DeadLetterMissingError: there is none with this number.
        RequeueError: only a part of it was stored, or the task has its result by now, so that no worker would run it.
        BusUnavailableError: no answer in time; the task may or may not be queued, and requeueing again makes no second.
    """
    letter = await dead_letter(bus, seq)
    if not letter.complete:
        raise RequeueError(
            f"the dead letter {seq} cannot be requeued: {len(letter.data)} of {letter.size} bytes were stored"
        )
    return await bus.begun.finish(_requeue(bus, letter))


async def _requeue(bus: Bus, letter: DeadLetter) -> DeadLetter:
    try:
        async with asyncio.timeout(PUBLICATION_S):
            await _store(bus, letter)
    except TimeoutError:
        raise BusUnavailableError(
            f"the bus did not store the dead letter {letter.seq} as a task within {PUBLICATION_S:g} s; requeue it again"
        ) from None
    await _delete(bus, letter.seq)
    await _note(bus, "requeue", letter)
    return letter


async def _store(bus: Bus, letter: DeadLetter) -> None:
    """Store the message of a dead letter as a task, unless that has its result.

    A reader that has found the task lost would settle it. So the entry is written first, and that reader is refused. An
    administrator with an account of its own may not write it: it looks afterwards whether that has happened.
    """
    found = await _entry_of(bus, letter)
    if isinstance(found, Record):
        found = await keep_queued(bus, found)
    _refuse_settled(letter, found)
    # Without the header of a ledger revision, so the claim reads the ledger entry as it is now.
    msg_id = ids.requeued_msg_id(letter.seq, letter.origin)
    subject = subjects.tasks_of(letter.agent, letter.publisher, second=_needs_something(letter))
    await bus.store(subject, letter.data, msg_id=msg_id, headers=letter.trace)
    if isinstance(found, Record) and found.entry.state == "queued":
        found = await _entry_of(bus, letter)
        if isinstance(found, Record) and (found.entry.result or {}).get("error") == LOST:
            _refuse_settled(letter, found)


def _needs_something(letter: DeadLetter) -> bool:
    """Whether a dead letter is a task that workers of earlier versions must not get."""
    try:
        return bool(needs_of(decode_task(letter.data).model_extra or {}))
    except MessageError:
        return False


def _task_of(letter: DeadLetter) -> TaskKey | None:
    """The task that a dead letter is, or None if it is no task."""
    try:
        return TaskKey(letter.agent, decode_task(letter.data).id, letter.publisher)
    except MessageError:
        return None


def _refuse_settled(letter: DeadLetter, found: Record | NoEntry) -> None:
    if isinstance(found, Record) and found.entry.terminal:
        raise RequeueError(
            f"the dead letter {letter.seq} is the task {found.task_id}, which has its result ({found.entry.state}); "
            f"publish it anew with: agentbus task retry {TaskStatus(found).name}"
        )


async def _entry_of(bus: Bus, letter: DeadLetter) -> Record | NoEntry:
    key = _task_of(letter)
    return NoEntry() if key is None else await Ledger(bus).read(key)  # a message that is no task has no entry


async def drop(bus: Bus, seq: int) -> None:
    """Delete a dead letter.

    Raises:
        DeadLetterMissingError: there is none with this number.
    """
    await bus.begun.finish(_drop(bus, await dead_letter(bus, seq)))


async def _drop(bus: Bus, letter: DeadLetter) -> None:
    await _delete(bus, letter.seq)
    await _note(bus, "drop", letter)


async def _note(bus: Bus, verb: Verb, letter: DeadLetter) -> None:
    await note(bus, verb, _task_of(letter), by=ADMINISTRATOR, detail=f"dead letter {letter.seq}", inside=True)


async def _delete(bus: Bus, seq: int) -> None:
    try:
        await bus.api(f"STREAM.MSG.DELETE.{subjects.DEAD_STREAM}", {"seq": seq})
    except ApiError as error:
        raise DeadLetterMissingError(f"there is no dead letter {seq}") from error


def _read(seq: int, subject: str, headers: Headers, data: bytes, stored_at: datetime) -> DeadLetter:
    size = number(headers.get(DEAD_SIZE, ""))
    agent, publisher = subjects.agent_and_party(subject, "dead") or ("", None)
    return DeadLetter(
        seq=seq,
        agent=agent,
        publisher=publisher or COORDINATOR,
        reason=headers.get(DEAD_REASON, ""),
        worker=headers.get(DEAD_WORKER, ""),
        stored_at=stored_at,
        origin=headers.get(DEAD_ORIGIN, headers.get(MSG_ID, "")),
        size=len(data) if size is None else size,
        sha256=headers.get(DEAD_SHA256, ""),
        data=data,
        trace=tracing.carried(headers),
    )
