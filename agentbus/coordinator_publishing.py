"""The part of the Python API that publishes tasks: one, the same for several agents, or many."""

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import concurrently
from agentbus.errors import AgentBusError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.ids import new_task_id
from agentbus.protocol.json_codec import Json
from agentbus.protocol.messages import PayloadFormat, Task, new_task
from agentbus.task_handle import DEFAULT_TASK_TYPE, PublishedTask, TaskFailure
from agentbus.tasks.publish import publish
from agentbus.tasks.work.attachments import NONE, Attachments

if TYPE_CHECKING:
    from agentbus.many_tasks import NewTask

log = logging.getLogger("agentbus")

AT_ONCE: Final = 16
"""How many of several tasks a method handles at the same time: as many requests as one connection answers quickly."""


class CoordinatorPublishing:
    """A coordinator, as far as publishing needs one."""

    bus: Bus
    agent: str
    warns_of_unknown: bool = False
    """Whether the log says so, once for each agent, where a task is published for one that the bus has never seen."""
    _looked_for: frozenset[str] = frozenset()

    async def publish(  # noqa: PLR0913  # what a task may have, of which all but two are optional
        self,
        to: str,
        content: Json,
        *,
        task_type: str = DEFAULT_TASK_TYPE,
        payload_format: PayloadFormat = "text",
        sender: str | None = None,
        reply_to: str | None = None,
        task_id: str | None = None,
        group: str | None = None,
        files: Iterable[Path] = (),
        base: str | None = None,
        branch: str | None = None,
        commits_of: Path | None = None,
    ) -> PublishedTask:
        """Publish a task for one agent; when this returns, JetStream has stored it.

        A call with a `task_id` can be repeated: JetStream stores the same content under the same id once.

        Args:
            group: the name of the job that the task belongs to, by which its tasks are listed, awaited and cancelled
                together; published again, a task stays in the group in which it was published first.
            files: files and folders of this machine that the run finds in its folder of inputs.
            base: of an agent with a repository, the branch, tag or commit from which the run starts.
            branch: the branch that it works on; `agentbus/<task id>` by default.
            commits_of: a folder in a repository of this machine, whose commits that it has not pushed go along; then
                `base` is looked up there, and is what is checked out there by default.

        Raises:
            WorkError: a file or a commit cannot be sent, or no living worker of the agent takes such tasks.
            InvalidIdError, MessageError: an id, the type or the content is not valid; nothing was sent.
            TaskConflictError, TooLargeError, SetupMissingError, StreamFullError, PermissionDeniedError,
            BusUnavailableError: see `agentbus.tasks.publish.publish`.
        """
        task = new_task(
            to=to,
            content=content,
            task_type=task_type,
            payload_format=payload_format,
            sender=sender or self.agent,
            reply_to=reply_to,
            task_id=task_id,
            group=group,
        )
        return await self._sent(task, Attachments(tuple(files), base, branch, commits_of))

    async def publish_to(  # noqa: PLR0913  # as of `publish`
        self,
        agents: Iterable[str],
        content: Json,
        *,
        task_type: str = DEFAULT_TASK_TYPE,
        payload_format: PayloadFormat = "text",
        sender: str | None = None,
        reply_to: str | None = None,
        task_id: str | None = None,
        group: str | None = None,
        attachments: Attachments = NONE,
    ) -> list[PublishedTask | TaskFailure]:
        """Publish the same content to several agents, as one task with an id of its own for each.

        Returns a handle or a failure for each agent, in order; an agent that is named twice gets one task. The tasks
        are published concurrently, so an unreachable bus costs one time-out. With more than one agent, a `task_id`
        becomes `<task_id>-<agent>`.

        Args:
            attachments: what each of them brings; see `publish`.

        Raises:
            InvalidIdError, MessageError: an id, the type or the content is not valid, or there is no agent; nothing
                was sent.
        """
        names = list(dict.fromkeys(subjects.agent_id(name) for name in agents))
        if not names:
            raise MessageError("name at least one agent to give the task to")
        ids = [f"{task_id}-{name}" if task_id is not None and len(names) > 1 else task_id for name in names]
        first = new_task(
            to=names[0],
            content=content,
            task_type=task_type,
            payload_format=payload_format,
            sender=sender or self.agent,
            reply_to=reply_to,
            task_id=ids[0],
            group=group,
        )
        tasks = [
            first.model_copy(
                update={"id": new_task_id() if own is None else subjects.task_id(own), "to": subjects.address(name)}
            )
            for name, own in zip(names, ids, strict=True)
        ]

        async def one(task: Task) -> PublishedTask | TaskFailure:
            try:
                return await self._sent(task, attachments)
            except AgentBusError as error:
                return TaskFailure(task.id, task.agent, error)

        return await concurrently(tasks, one, at_once=AT_ONCE)

    def publish_many(
        self, tasks: "Iterable[NewTask] | AsyncIterable[NewTask]", *, batch: str | None = None
    ) -> "AsyncGenerator[PublishedTask | TaskFailure]":
        """Publish tasks, up to 32 at a time; yield a handle or a failure for each, in order, as soon as it is there.

        They are taken from `tasks` as the bus stores earlier ones, so there may be any number. What fails for one does
        not keep the others from being published, but for a bus that is away: once a publication has waited for it in
        vain, those behind it fail at once until it is back. Ended early, by a cancellation or with `aclose`, nothing
        new is begun, and what is under way is finished or taken back, as by `publish`. Of tasks with files, four send
        theirs at a time, and a file that several bring to one agent is sent once.

        Args:
            batch: tasks without a `task_id` get one made of this name and of their content, so that publishing the
                same again makes no second task; of several with the same content, each gets another. None for ids that
                are random.

        Raises:
            InvalidIdError: `batch` cannot begin a task id; nothing was sent.
        """
        from agentbus.many_tasks import ManyTasks

        return ManyTasks(self.bus, self.agent, batch, self._warn_of_unknown).all(tasks)

    async def _warn_of_unknown(self, agent: str) -> None:
        """Say in the log that the bus has never seen an agent, with the name that was probably meant."""
        if not self.warns_of_unknown or agent in self._looked_for:
            return
        self._looked_for |= {agent}
        from agentbus.tasks.listing.known_agents import unknown_note

        if (note := await unknown_note(self.bus, agent)) is not None:
            log.warning("%s", note)

    async def _sent(self, task: Task, attachments: Attachments = NONE) -> PublishedTask:
        await self._warn_of_unknown(task.agent)
        if attachments:
            from agentbus.tasks.work.sending import task_with

            task = await task_with(self.bus, task, attachments, self.agent)
        return PublishedTask(self.bus, await publish(self.bus, task, self.agent), coordinator=self.agent)
