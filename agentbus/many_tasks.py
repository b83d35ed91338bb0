"""Publishing many tasks: so many at a time that the bus has always work, each with its own outcome."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import in_order
from agentbus.errors import AgentBusError, BusUnavailableError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.messages import PayloadFormat, Task, new_task
from agentbus.task_handle import DEFAULT_TASK_TYPE, PublishedTask, TaskFailure
from agentbus.tasks.publish import publish
from agentbus.tasks.work.attachments import Attachments
from agentbus.tasks.work.input_store import StoredInputs
from agentbus.tasks.work.sending import task_with

AT_ONCE: Final = 32
"""How many publications are under way at the same time. With more, none is faster, and the event loop stands for longer
when the server answers them all at once."""
_SENDING: Final = 4
"""How many tasks with files send them at the same time: each reads its files and takes its share of the connection."""
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
    files: tuple[Path, ...] = ()
    base: str | None = None
    branch: str | None = None


async def _no_look(_: str) -> None:
    """Look for nothing."""


class ManyTasks:
    """Publishes tasks of one coordinator; see `Coordinator.publish_many`.

    `look` is called with the agent of each task before it is published.

    Raises:
        InvalidIdError: the name of the batch cannot begin a task id.
    """

    def __init__(
        self, bus: Bus, coordinator: str, batch: str | None = None, look: Callable[[str], Awaitable[None]] = _no_look
    ) -> None:
        if batch is not None:
            subjects.task_id(_id_of(subjects.task_id(batch), "", 0))
        self._bus = bus
        self._coordinator = coordinator
        self._batch = batch
        self._look = look
        self._times = Counter[str]()
        self._away = False
        self._sending = asyncio.Semaphore(_SENDING)
        self._stored = StoredInputs()

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
            task, attachments = self._task(wanted), Attachments(wanted.files, wanted.base, wanted.branch)
            by_content = wanted.task_id is None and self._batch is not None
            if by_content and not attachments:
                task = self._with_id(task)
            task_id, agent = "" if by_content and attachments else task.id, task.agent
            if self._away and not self._bus.connected:
                raise BusUnavailableError(f"the bus is away; the task {task_id} was not published")
            await self._look(agent)
            if attachments:  # they are a part of what the task is
                async with self._sending:
                    task = await task_with(self._bus, task, attachments, self._coordinator, self._stored)
                task = self._with_id(task) if by_content else task
                task_id = task.id
            published = await publish(self._bus, task, self._coordinator)
        except AgentBusError as error:
            self._away = isinstance(error, BusUnavailableError)
            return TaskFailure(task_id, agent, error)
        return PublishedTask(self._bus, published, coordinator=self._coordinator)

    def _task(self, wanted: NewTask) -> Task:
        return new_task(
            to=wanted.to,
            content=wanted.content,
            task_type=wanted.task_type,
            payload_format=wanted.payload_format,
            sender=wanted.sender or self._coordinator,
            reply_to=wanted.reply_to,
            task_id=wanted.task_id or self._batch,  # that of the batch until the content is known
            group=wanted.group,
        )

    def _with_id(self, task: Task) -> Task:
        digest = task.digest()
        self._times[digest] += 1
        return task.model_copy(update={"id": _id_of(task.id, digest, self._times[digest])})


def _id_of(batch: str, digest: str, time: int) -> str:
    """Return the id of a task by its content, and by which of those with the same content it is."""
    return f"{batch}-{hashlib.sha256(f'{digest} {time}'.encode()).hexdigest()[:_DIGEST_CHARS]}"
