"""Publishing many tasks: so many at a time that the bus has always work, each with its own outcome."""

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import in_order
from agentbus.errors import AgentBusError, BusUnavailableError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.messages import PayloadFormat, Task, new_task
from agentbus.task_handle import DEFAULT_TASK_TYPE, PublishedTask, TaskFailure
from agentbus.tasks.publish import publish

AT_ONCE: Final = 32
"""How many publications are under way at the same time. With more, none is faster, and the event loop stands for longer
when the server answers them all at once."""
_DIGEST_CHARS: Final = 32
"""128 bits: two tasks of a bus do not meet by chance."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task that is to be published; see `Coordinator.publish` for what the fields mean."""

    to: str
    content: Json
    task_type: str = DEFAULT_TASK_TYPE
    payload_format: PayloadFormat = "text"
    sender: str | None = None
    reply_to: str | None = None
    task_id: str | None = None
    group: str | None = None


class ManyTasks:
    """Publishes tasks of one coordinator; see `Coordinator.publish_many`.

    Raises:
        InvalidIdError: the name of the batch cannot begin a task id.
    """

    def __init__(self, bus: Bus, coordinator: str, batch: str | None = None) -> None:
        if batch is not None:
            subjects.task_id(_id_of(subjects.task_id(batch), "", 0))
        self._bus = bus
        self._coordinator = coordinator
        self._batch = batch
        self._times = Counter[str]()
        self._away = False

    async def all(
        self, tasks: Iterable[NewTask] | AsyncIterable[NewTask]
    ) -> AsyncGenerator[PublishedTask | TaskFailure]:
        """Publish tasks; yield what became of each, in order."""
        async with aclosing(in_order(tasks, self.one, at_once=AT_ONCE)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def one(self, wanted: NewTask) -> PublishedTask | TaskFailure:
        """Publish a task; return what became of it."""
        task_id, agent = wanted.task_id or "", wanted.to
        try:
            task = self._task(wanted)
            task_id, agent = task.id, task.agent
            if self._away and not self._bus.connected:
                raise BusUnavailableError(f"the bus is away; the task {task.id} was not published")
            published = await publish(self._bus, task, self._coordinator)
        except AgentBusError as error:
            self._away = isinstance(error, BusUnavailableError)
            return TaskFailure(task_id, agent, error)
        return PublishedTask(self._bus, published, coordinator=self._coordinator)

    def _task(self, wanted: NewTask) -> Task:
        by_content = wanted.task_id is None and self._batch is not None
        task = new_task(
            to=wanted.to,
            content=wanted.content,
            task_type=wanted.task_type,
            payload_format=wanted.payload_format,
            sender=wanted.sender or self._coordinator,
            reply_to=wanted.reply_to,
            task_id=self._batch if by_content else wanted.task_id,  # until the content is known
            group=wanted.group,
        )
        if not by_content:
            return task
        digest = task.digest()
        self._times[digest] += 1
        return task.model_copy(update={"id": _id_of(task.id, digest, self._times[digest])})


def _id_of(batch: str, digest: str, time: int) -> str:
    """Return the id of a task by its content, and by which of those with the same content it is."""
    return f"{batch}-{hashlib.sha256(f'{digest} {time}'.encode()).hexdigest()[:_DIGEST_CHARS]}"
