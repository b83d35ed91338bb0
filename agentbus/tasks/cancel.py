"""Cancels a task: records the request in the ledger, which is durable, and tells the worker, which is fast."""

from agentbus.bus.audit_note import note
from agentbus.bus.jetstream import Bus
from agentbus.errors import MessageError, WrongRevisionError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import MAX_REASON_CHARS, CancelRequest, Record
from agentbus.protocol.task_names import TaskQuery
from agentbus.protocol.timestamps import now
from agentbus.tasks.find import find, find_newer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.status import TaskStatus


async def cancel(bus: Bus, query: TaskQuery, *, by: str, reason: str) -> TaskStatus:
    """Record the request to cancel a task, tell its worker, and return the state that the task had then.

    A caller that is cancelled itself leaves no half of this behind; see `BegunSteps.finish`.

    A queued task never starts. The worker of a running task ends its processes and settles it as `cancelled`. A settled
    task keeps its result. Repeating the request changes nothing.

    Args:
        by: the agent id of the coordinator that requests it.

    Raises:
        MessageError: `reason` is longer than 2000 characters; the entry holds it beside the whole result.
        TaskNotFoundError: the bus knows no such task, or several agents have one and `agent` is not given.
    """
    if len(reason) > MAX_REASON_CHARS:
        raise MessageError(f"the reason has {len(reason)} characters; it may have up to {MAX_REASON_CHARS}")
    while True:
        record = await find(bus, query)
        request = CancelRequest(by=subjects.address(by), reason=reason, at=now())
        try:
            revision = await bus.begun.finish(_request(bus, record, request, by))
        except WrongRevisionError:
            continue
        return TaskStatus(await find_newer(bus, record, revision), query.asker)


async def _request(bus: Bus, record: Record, request: CancelRequest, by: str) -> int:
    """Write the request and tell the worker, as far as that is called for; returns the revision of the entry."""
    entry, revision = record.entry, record.revision
    if entry.terminal:
        return revision
    if entry.cancel is None:
        revision = await Ledger(bus).write(record.key, entry.model_copy(update={"cancel": request}), revision=revision)
        await note(bus, "cancel", record.key, by=by)
    # The worker would also read the request from the ledger when it next renews its lease; this is faster.
    await bus.publish(subjects.control(record.agent), encode({"cancel": record.task_id, **record.key.owner_field}))
    return revision
