"""Retries a settled task: makes a new task with the same content and a new id."""

from agentbus.bus.audit_note import note
from agentbus.bus.jetstream import Bus
from agentbus.errors import MessageError, NotSettledError, TaskContentMissingError, WorkError
from agentbus.protocol import subjects
from agentbus.protocol.ids import new_task_id
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import Task, decode_task
from agentbus.protocol.subjects import COORDINATOR
from agentbus.protocol.timestamps import now
from agentbus.protocol.work.task_work import sent_with
from agentbus.tasks.publish import Published, publish
from agentbus.tasks.status import TaskStatus


async def retry(bus: Bus, status: TaskStatus, publisher: str) -> Published:
    """Publish the content of a settled task again, under a new id, and tell the audit.

    Raises:
        NotSettledError, TaskContentMissingError, WorkError: see `retry_of`.
        BusError: see `agentbus.tasks.publish.publish`.
    """
    return await bus.begun.finish(_publish(bus, status, retry_of(status, publisher), publisher))


async def _publish(bus: Bus, status: TaskStatus, again: Task, publisher: str) -> Published:
    published = await publish(bus, again, publisher)
    await note(bus, "retry", status.record.key, by=publisher, detail=again.id)
    return published


def retry_of(status: TaskStatus, publisher: str) -> Task:
    """Build a new task with the content of a settled one, which it names in `retry_of`.

    The result goes where that of the settled one went if `main` publishes it, else to the publisher.

    Raises:
        NotSettledError: the task has no result yet.
        TaskContentMissingError: the result does not hold the whole content of the task.
        WorkError: the task brings what only its own publisher can send.
    """
    task_id, result = status.task_id, status.result
    if result is None:
        raise NotSettledError(f"the task {task_id} is {status.state}; only a task that has its result can be retried")
    try:
        old = decode_task(encode(result.task))
    except MessageError:
        old = None
    # A result does not hold the content if it was made without the message, or had no room for all of it.
    if old is None or old.digest() != status.record.entry.digest:
        raise TaskContentMissingError(
            f"the content of the task {task_id} is not known any more; publish it as a new task"
        )
    if status.owner != publisher and sent_with(result.task):
        raise WorkError(
            f"the task {task_id} brings files or commits that {status.owner} has sent, and workers give them to tasks "
            f"of {status.owner} alone: have {status.owner} retry it, or publish it as a new task with them"
        )
    mine = subjects.address(publisher)
    route = {} if publisher == COORDINATOR else {"from": mine, "reply_to": mine}
    new = {"id": new_task_id(), "created_at": now(), "retry_of": task_id}
    return decode_task(encode({**result.task, **route, **new}))
