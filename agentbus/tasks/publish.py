"""Publishing a task: its ledger entry first, then its message."""

from dataclasses import dataclass
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import (
    BusUnavailableError,
    PermissionDeniedError,
    SetupMissingError,
    StreamFullError,
    TaskConflictError,
    TooLargeError,
    WrongRevisionError,
)
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.headers import LEDGER_REVISION
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record, State, queued
from agentbus.protocol.messages import Task
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


async def publish(bus: Bus, task: Task) -> Published:
    """Publish a task; when this returns, JetStream has stored it.

    Publishing the same task again under the same id is harmless. Do that after a `BusUnavailableError`, which leaves
    open whether the task was stored.

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
            await _remove_entry(ledger, agent, task.id, revision)
        raise
    except BusUnavailableError as error:
        raise BusUnavailableError(
            f"{error}; the task {task.id} may or may not be queued: publish it again with this id to be sure"
        ) from error
    return Published(task, known=known, state="queued")


def max_task_bytes(bus: Bus) -> int:
    """Return the size of the largest task that this bus can carry, with the result that will embed it."""
    return max(0, bus.max_message_bytes - RESULT_RESERVE_BYTES)


async def _remove_entry(ledger: Ledger, agent: str, task_id: str, revision: int) -> None:
    """Remove the ledger entry of a task that the bus refused; an entry that cannot be removed expires."""
    try:
        await ledger.remove(agent, task_id, revision=revision)
    except (WrongRevisionError, BusUnavailableError, PermissionDeniedError, SetupMissingError, StreamFullError):
        return
