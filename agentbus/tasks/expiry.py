"""Settles tasks that can no longer run, because their message is older than the task stream keeps messages."""

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.errors import CorruptEntryError, PermissionDeniedError, SetupMissingError, StreamFullError
from agentbus.protocol import subjects
from agentbus.protocol.ids import make_result_id, random_token
from agentbus.protocol.ledger_entry import Entry, Record
from agentbus.protocol.messages import Failure, Result, new_result
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.settle import Won, commit, publish_again, publish_committed

if TYPE_CHECKING:
    from agentbus.protocol.json_codec import Json

_INBOX_REFUSES: Final = (PermissionDeniedError, StreamFullError, SetupMissingError)
"""The reader may not publish to the inbox, or it is full. The next reader tries again: the ledger has the result."""


def may_have_expired(records: Iterable[Record]) -> bool:
    """Whether `settle_expired` has anything to do with some of the records."""
    return not all(_settled_by_worker(record.entry) for record in records)


async def settle_expired(bus: Bus, records: Iterable[Record], queue: StreamInfo | None) -> list[Record]:
    """Settle the expired tasks among `records`; returns the ledger entry of each record afterwards.

    A task has expired when its ledger entry has not changed for longer than the task stream keeps a message, by the
    server's clock; the owner of a running task renews its entry. An expired task is settled as `failed` with the error
    `expired`, or as `cancelled` if a coordinator has requested that. Any reader may settle it; compare-and-set
    guarantees that it happens once. Later readers publish the result again, in case the first one died before it did.

    Args:
        queue: the state of the task stream; None where this user may not read how long the bus keeps a task.
    """
    found = list(records)
    if queue is None or queue.server_time is None:
        return found  # a server before 2.10 does not tell its time
    now, max_age_s = queue.server_time, queue.max_age_s
    for number, record in enumerate(found):
        age_s = (now - record.changed_at).total_seconds()
        if not record.entry.terminal and max_age_s and age_s > max(max_age_s, _owner_s(record.entry)):
            found[number] = await settle_unrun(
                bus, record, f"expired: no worker has finished it within {max_age_s:g} s"
            )
        elif record.entry.terminal and not _settled_by_worker(record.entry):
            with suppress(PermissionDeniedError):
                await _publish_again(bus, record)
    return found


def _settled_by_worker(entry: Entry) -> bool:
    return entry.result is not None and "worker" in entry.result


def _owner_s(entry: Entry) -> float:
    """How long an entry may stay unchanged while its owner is alive."""
    return 2 * entry.claim.lease_s if entry.state == "working" and entry.claim is not None else 0.0


async def settle_unrun(bus: Bus, record: Record, error: str) -> Record:
    """Settle a task that can no longer run, as `failed`, or as `cancelled` if that was requested; return its entry.

    It is left as it is if another party has written the entry since it was read, or if this user may not write it.
    """
    try:
        await bus.begun.finish(_commit(bus, record, _result(record, error)))
        found = await Ledger(bus).read_newer(record.key, record.revision)
    except CorruptEntryError:
        return record  # a party wrote it meanwhile; the next look says what is wrong with it
    except PermissionDeniedError:
        return record  # this user may look only; one that may write settles it
    return found if isinstance(found, Record) else record


async def _commit(bus: Bus, record: Record, result: Result) -> None:
    verdict = await commit(Ledger(bus), record.key, record.entry, result, revision=record.revision)
    if isinstance(verdict, Won):
        with suppress(*_INBOX_REFUSES):
            await publish_committed(bus, verdict.entry)


async def _publish_again(bus: Bus, record: Record) -> None:
    """Publish the result again while the server's duplicate window still covers the first publication.

    The coordinator that settled the task may have died before it published the result.
    """
    stream = await bus.stream_info(subjects.RESULTS_STREAM)
    if stream.server_time is None:
        return
    if (stream.server_time - record.changed_at).total_seconds() < stream.duplicate_window_s / 2:
        with suppress(*_INBOX_REFUSES):
            await publish_again(bus, record)


def _result(record: Record, error: str) -> Result:
    """Make the result of a task whose message, and so its content, is no longer on the bus."""
    entry, request = record.entry, record.entry.cancel
    task: dict[str, Json] = {
        "id": record.task_id,
        "from": entry.sender,
        "to": subjects.address(record.agent),
        "reply_to": subjects.address(entry.inbox),
        "type": "task.request",
        "task_type": entry.task_type,
        "created_at": entry.created_at,
    }
    if request is not None:
        error = f"cancelled by {request.by}" + (f": {request.reason}" if request.reason else "")
    return new_result(
        task,
        result_id=make_result_id(record.agent, record.task_id, random_token()),
        status="failed" if request is None else "cancelled",
        error=error,
        failure=Failure("expired", error) if request is None else None,
        extra=record.key.owner_field,
    )
