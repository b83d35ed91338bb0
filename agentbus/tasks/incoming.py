"""Reading a task that was delivered: what a worker accepts, and why it refuses the rest."""

from dataclasses import dataclass, replace

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import MessageError
from agentbus.protocol import ids, subjects
from agentbus.protocol.audit.names import MAX_HEADER_BYTES
from agentbus.protocol.conversations.continuation import Continuation, continuation_of, needs_of
from agentbus.protocol.headers import CONDITION, LEDGER_REVISION, MSG_ID, REVISION, Headers, is_relayed, number
from agentbus.protocol.messages import MAX_TASK_BYTES, Task, decode_task
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.work.task_work import SentFile, Work, files_of, work_of


@dataclass(frozen=True, slots=True)
class Incoming:
    """A valid task as it was delivered.

    Attributes:
        key: the task, with its owner as the subject of its message says.
        revision: the ledger's at the publication; None if the publisher did not give it.
        publication: the random part of the message id; see `ids.task_msg_id`.
        needs: what the worker has to be able to do; nothing in a task of the first form.
        continues: the conversation with which it goes on.
        work: from where in the agent's repository it starts; None if it does not say.
        files: what it brings.
    """

    task: Task
    key: TaskKey
    revision: int | None = None
    publication: str | None = None
    needs: tuple[str, ...] = ()
    continues: Continuation | None = None
    work: Work | None = None
    files: tuple[SentFile, ...] = ()

    def inbox(self, default: str) -> str:
        """Return whose inbox gets the result: only `main` may name another than its own; see `Task.inbox`."""
        return self.task.inbox(default) if self.key.owner == COORDINATOR else self.key.owner


def read_delivery(delivery: Delivery, agent: str, *, max_bytes: int = MAX_TASK_BYTES) -> Incoming:
    """Validate a message that was delivered to a worker of `agent`.

    Raises:
        MessageError: it is no valid task for this agent, or larger than `max_bytes`; the reason for the dead letter.
    """
    if len(delivery.data) > max_bytes:
        raise MessageError(f"too large: {len(delivery.data)} bytes, and max_task_bytes is {max_bytes}")
    if delivery.header_bytes > MAX_HEADER_BYTES:  # the audit has no line of it
        raise MessageError(f"its headers take {delivery.header_bytes} bytes, and may take {MAX_HEADER_BYTES}")
    if conditions := [name for name in delivery.headers if name.lower().startswith(CONDITION)]:
        raise MessageError(f"the header {conditions[0]} keeps it out of the audit; publish it without that header")
    if is_relayed(delivery.headers):
        raise MessageError("a copy that the server was made to relay, not a message that a publisher sent")
    task = decode_task(delivery.data)
    if task.agent != agent:
        raise MessageError(f"addressed to the agent {task.agent}, but published for {agent}")
    publisher = subjects.publisher_of(delivery.subject, agent)
    if publisher is None:
        raise MessageError(f"published on {delivery.subject}, which is no subject for tasks of {agent}")
    found = _published(task, TaskKey(agent, task.id, publisher), delivery.headers)
    fields = task.model_extra or {}
    if delivery.subject == subjects.tasks(agent) or not (needs := needs_of(fields)):
        return found
    return replace(found, needs=needs, continues=continuation_of(fields), work=work_of(fields), files=files_of(fields))


def _published(task: Task, key: TaskKey, headers: Headers) -> Incoming:
    """Read what the publisher says in headers of its ledger entry: publishers that are not agentbus say nothing."""
    name = next((name for name in (REVISION, LEDGER_REVISION) if name in headers), None)
    if name is None:
        return Incoming(task, key)
    revision, msg_id = number(headers[name]), headers.get(MSG_ID, "")
    if revision is None:
        raise MessageError(f"the header {name} is not a number")
    publication = ids.publication_of(msg_id, key) if name == REVISION else None
    if msg_id != ids.task_msg_id(key, publication) or (name == REVISION and publication is None):
        raise MessageError(f"the header {MSG_ID} does not belong to this task")
    return Incoming(task, key, revision, publication)
