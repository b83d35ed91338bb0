"""Reading a task that was delivered: what a worker accepts, and why it refuses the rest."""

from dataclasses import dataclass

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import MessageError
from agentbus.protocol import subjects
from agentbus.protocol.headers import LEDGER_REVISION, MSG_ID, REVISION, is_relayed, number
from agentbus.protocol.messages import MAX_TASK_BYTES, Task, decode_task


@dataclass(frozen=True, slots=True)
class Incoming:
    """A valid task as it was delivered.

    Attributes:
        revision: the ledger's at the publication; None if the publisher did not give it.
        publication: the random part of the message id; see `subjects.task_msg_id`.
    """

    task: Task
    revision: int | None = None
    publication: str | None = None


def read_delivery(delivery: Delivery, agent: str, *, max_bytes: int = MAX_TASK_BYTES) -> Incoming:
    """Validate a message that was delivered to a worker of `agent`.

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
    name = next((name for name in (REVISION, LEDGER_REVISION) if name in delivery.headers), None)
    if name is None:
        return Incoming(task)
    revision, msg_id = number(delivery.headers[name]), delivery.headers.get(MSG_ID, "")
    if revision is None:
        raise MessageError(f"the header {name} is not a number")
    publication = subjects.publication_of(msg_id, agent, task.id) if name == REVISION else None
    if msg_id != subjects.task_msg_id(agent, task.id, publication) or (name == REVISION and publication is None):
        raise MessageError(f"the header {MSG_ID} does not belong to this task")
    return Incoming(task, revision, publication)
