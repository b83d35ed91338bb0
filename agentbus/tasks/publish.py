"""Publishing a task, and reading one that was delivered."""

from dataclasses import dataclass
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
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
from agentbus.protocol import subjects
from agentbus.protocol.headers import LEDGER_REVISION, MSG_ID, is_relayed, number
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record, State, queued
from agentbus.protocol.messages import MAX_TASK_BYTES, Task, decode_task
from agentbus.tasks.ledger import Ledger

RESULT_RESERVE_BYTES: Final = 80 * 1024
"""What a result needs beside the task that it embeds: the head of the output, the ledger's fields, headers."""


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


async def publish(bus: Bus, task: Task) -> Published:
    """Put a task on the bus; when this returns, JetStream has it.

    Publishing the same task again under the same id is harmless, and the way to find out what became of an attempt
    that ended in `BusUnavailableError`.

    Raises:
        TaskConflictError: the id is taken by a task with other content.
        TooLargeError: the task, or the result that will embed it, does not fit into a message.
        SetupMissingError, StreamFullError, PermissionDeniedError: refused; nothing was queued.
        BusUnavailableError: no answer in time; the task may or may not be queued.
    """
    agent, data = task.agent, encode(task.to_json())
    limit = max_task_bytes(bus)
    if len(data) > limit:
        raise TooLargeError(
            f"the task is {len(data)} bytes; this bus takes up to {limit}. Put the bulk where the agent can fetch it, "
            "or raise max_payload on the server"
        )
    with tracing.publishing(agent, task.id, len(data)):
        return await _publish(bus, task, data)


async def _publish(bus: Bus, task: Task, data: bytes) -> Published:
    agent, ledger = task.agent, Ledger(bus)
    made = await ledger.create(agent, task.id, queued(task, task.inbox(subjects.COORDINATOR)))
    known = isinstance(made, Record)
    if isinstance(made, Record):
        if made.entry.digest != task.digest():
            raise TaskConflictError(
                f"the id {task.id} belongs to another task of {agent} ({made.entry.state}); "
                "choose another id, or leave it out and get a new one"
            )
        if made.entry.state != "queued":
            return Published(task, known=True, state=made.entry.state)
        revision = made.revision
    else:
        revision = made
    headers = {LEDGER_REVISION: str(revision), **tracing.headers()}
    try:
        await bus.store(subjects.tasks(agent), data, msg_id=subjects.task_msg_id(agent, task.id), headers=headers)
    except (SetupMissingError, StreamFullError, PermissionDeniedError, TooLargeError):
        if not known:
            await _take_back(ledger, agent, task.id, revision)
        raise
    except BusUnavailableError as error:
        raise BusUnavailableError(
            f"{error}; the task {task.id} may or may not be queued: publish it again with this id to be sure"
        ) from error
    return Published(task, known=known, state="queued")


def max_task_bytes(bus: Bus) -> int:
    """The largest task that this bus can carry, with the result that will embed it."""
    return max(0, bus.max_message_bytes - RESULT_RESERVE_BYTES)


async def _take_back(ledger: Ledger, agent: str, task_id: str, revision: int) -> None:
    """Remove the entry of a task that the bus refused; what cannot be removed expires by itself."""
    try:
        await ledger.remove(agent, task_id, revision=revision)
    except (WrongRevisionError, BusUnavailableError, PermissionDeniedError, SetupMissingError, StreamFullError):
        return


@dataclass(frozen=True, slots=True)
class Incoming:
    """A valid task as it was delivered; `revision` is the ledger's at its publication, if its publisher said it."""

    task: Task
    revision: int | None


def read_delivery(delivery: Delivery, agent: str, *, max_bytes: int = MAX_TASK_BYTES) -> Incoming:
    """Validate what a worker of `agent` was given.

    Raises:
        MessageError: it is no valid task for this agent, or larger than `max_bytes`; the reason for the dead letter.
    """
    if len(delivery.data) > max_bytes:
        raise MessageError(f"too large: {len(delivery.data)} bytes, and max_task_bytes is {max_bytes}")
    if is_relayed(delivery.headers):
        raise MessageError("a copy that the server was made to relay, not a message that a publisher sent")
    task = decode_task(delivery.data)
    if task.agent != agent:
        raise MessageError(f"addressed to the agent {task.agent}, but published for {agent}")
    told = delivery.headers.get(LEDGER_REVISION)
    if told is None:
        return Incoming(task, None)
    revision = number(told)
    if revision is None:
        raise MessageError(f"the header {LEDGER_REVISION} is not a number")
    if delivery.headers.get(MSG_ID) != subjects.task_msg_id(agent, task.id):
        raise MessageError(f"the header {MSG_ID} does not belong to this task")
    return Incoming(task, revision)
