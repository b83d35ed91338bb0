"""The coordinator's side for programs: publish tasks, wait for them, read and watch inboxes.

    async with agentbus.connect() as bus:
        task = await bus.publish("code", "Review PR 123")
        result = await task.result(timeout_s=600)
        print(result.status, result.result)

The command line and the MCP server use the same code. A method imports what only it needs, so that a program that
publishes one task starts fast.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import concurrently
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.config.schema import CoordinatorConfig
from agentbus.errors import AgentBusError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import State
from agentbus.protocol.messages import PayloadFormat, Task, new_task
from agentbus.task_handle import PublishedTask, TaskFailure, TaskHandle
from agentbus.tasks.presence import Presence, present
from agentbus.tasks.publish import publish
from agentbus.tasks.status import TaskStatus, Waited

if TYPE_CHECKING:
    from agentbus.agent_overview import AgentOverview
    from agentbus.tasks.inbox import Inbox, InboxMessage
    from agentbus.tasks.task_list import TaskList
    from agentbus.tasks.wait import Until

DEFAULT_TASK_TYPE: Final = "task"
_AT_ONCE: Final = 16
"""How many tasks of a many-form are worked on at the same time: as many requests as one connection answers quickly."""

TaskRef: TypeAlias = str | TaskHandle
"""A task by its id, or by a handle, which also says whose task it is."""
_T = TypeVar("_T")

log = logging.getLogger("agentbus")
log.addHandler(logging.NullHandler())  # a library prints nothing unless its program asks for it


class Coordinator:
    """One coordinator on an open bus. Make it with `connect()`, or over an open `Bus`."""

    def __init__(self, bus: Bus, agent: str = subjects.COORDINATOR) -> None:
        self.bus = bus
        self.agent = agent

    async def publish(
        self,
        to: str,
        content: Json,
        *,
        task_type: str = DEFAULT_TASK_TYPE,
        payload_format: PayloadFormat = "text",
        sender: str | None = None,
        reply_to: str | None = None,
        task_id: str | None = None,
    ) -> PublishedTask:
        """Publish a task for one agent; when this returns, JetStream has stored it.

        With a `task_id` chosen by the caller the call can be repeated: the same content under the same id is stored
        once.

        Raises:
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
        )
        return await self._sent(task)

    async def publish_to(
        self,
        agents: Iterable[str],
        content: Json,
        *,
        task_type: str = DEFAULT_TASK_TYPE,
        payload_format: PayloadFormat = "text",
        sender: str | None = None,
        reply_to: str | None = None,
        task_id: str | None = None,
    ) -> list[PublishedTask | TaskFailure]:
        """Publish the same task for several agents; each gets a message, and a task id, of its own.

        Returns a handle or a failure for each agent, in order, without repetitions. The tasks are published side by
        side, so that a bus that is away costs one time-out. A `task_id` becomes `<task_id>-<agent>` if there is more
        than one agent.

        Raises:
            InvalidIdError, MessageError: an id, the type or the content is not valid, or there is no agent; nothing
                was sent.
        """
        names = list(dict.fromkeys(subjects.agent_id(name) for name in agents))
        if not names:
            raise MessageError("name at least one agent to give the task to")
        ids = [f"{task_id}-{name}" if task_id is not None and len(names) > 1 else task_id for name in names]
        tasks = [
            new_task(
                to=name,
                content=content,
                task_type=task_type,
                payload_format=payload_format,
                sender=sender or self.agent,
                reply_to=reply_to,
                task_id=own_id,
            )
            for name, own_id in zip(names, ids, strict=True)
        ]

        async def one(task: Task) -> PublishedTask | TaskFailure:
            try:
                return await self._sent(task)
            except AgentBusError as error:
                return TaskFailure(task.id, task.agent, error)

        return await concurrently(tasks, one, at_once=_AT_ONCE)

    def task(self, task_id: str, *, agent: str | None = None) -> TaskHandle:
        """Make a handle of a task from its id. Nothing is asked of the bus: the first method of the handle does that.

        Args:
            agent: the agent that the task was sent to; needed only where several agents have a task of this id, and
                where this user may not read the states of every agent's tasks.

        Raises:
            InvalidIdError: an id is not valid.
        """
        return TaskHandle(self.bus, task_id, agent, coordinator=self.agent)

    async def statuses(
        self, tasks: Iterable[TaskRef], *, agent: str | None = None, timeout_s: float = 0
    ) -> list[TaskStatus | TaskFailure]:
        """Read the states of tasks side by side; returns a status or a failure for each, in order.

        Args:
            agent: the agent that has those which are given by their ids, as for `task`.
            timeout_s: how long to wait for a connection that is lost.
        """
        from agentbus.tasks.wait import repeat_while_away

        async def status(handle: TaskHandle) -> TaskStatus:
            return await repeat_while_away(self.bus, handle.status, timeout_s)

        return await self._each(tasks, agent, status)

    async def cancel_all(
        self, tasks: Iterable[TaskRef], *, agent: str | None = None, reason: str = ""
    ) -> list[TaskStatus | TaskFailure]:
        """Cancel tasks side by side, as `TaskHandle.cancel` does; returns a status or a failure for each, in order."""
        return await self._each(tasks, agent, lambda handle: handle.cancel(reason))

    async def wait(
        self,
        tasks: Iterable[TaskRef],
        *,
        until: "Until" = "all",
        timeout_s: float | None = None,
        agent: str | None = None,
        on_change: Callable[[str, str], None] | None = None,
    ) -> Waited:
        """Wait until all, or any, of the tasks have their result, or the time is over.

        Returns at once when nothing is left to wait for. Losing the connection or the server does not end the wait; if
        it is away when the time is over, the states are those seen last. Giving up does nothing to the tasks.

        Args:
            timeout_s: seconds, or None to wait as long as it takes. Reaching it is no error.
            agent: the agent that has those which are given by their ids, as for `task`.
            on_change: called with the task id and the new state whenever the ledger changes.

        Raises:
            TaskNotFoundError, InvalidIdError: the bus knows no task of one of the ids.
        """
        from agentbus.tasks.wait import wait_for_ids

        def tell(status: TaskStatus) -> None:
            if on_change is not None:
                on_change(status.task_id, status.record.entry.state)

        handles = [self._handle(task, agent) for task in tasks]
        wanted = [(handle.id, handle.agent) for handle in handles]
        return await wait_for_ids(self.bus, wanted, until=until, timeout_s=timeout_s, on_change=tell)

    async def list_tasks(
        self, *, agent: str | None = None, state: State | None = None, limit: int = 20, cursor: int | None = None
    ) -> "TaskList":
        """List the newest tasks by last change, of one agent or of all, in one state or in any.

        Raises:
            InvalidIdError, MessageError: `agent` is no agent id, or `limit` is not from 1 to 200.
        """
        from agentbus.tasks.task_list import list_tasks

        only = subjects.agent_id(agent) if agent else None
        return await list_tasks(self.bus, agent=only, state=state, limit=limit, cursor=cursor)

    async def agents(self, agent: str | None = None) -> list[Presence]:
        """List the living workers, of one agent or of all."""
        return await present(self.bus, subjects.agent_id(agent) if agent else None)

    async def overview(self, agent: str | None = None) -> "list[AgentOverview]":
        """List agents with their living workers and their backlog; see `overview_of_agents`."""
        from agentbus.agent_overview import overview_of_agents

        return await overview_of_agents(self.bus, subjects.agent_id(agent) if agent else None)

    async def results(self, newest: int = 1, *, agent: str | None = None) -> "list[InboxMessage]":
        """Read the newest messages of an inbox (that of this coordinator by default), oldest first."""
        async with self.inbox(newest=newest, agent=agent) as inbox:
            return await inbox.history()

    def inbox(
        self, *, newest: int | None = None, after: int | None = None, agent: str | None = None
    ) -> "AbstractAsyncContextManager[Inbox]":
        """Open an inbox (that of this coordinator by default) to read its history and then follow it."""
        from agentbus.tasks.inbox import open_inbox

        return open_inbox(self.bus, subjects.agent_id(agent or self.agent), newest=newest, after=after)

    async def _sent(self, task: Task) -> PublishedTask:
        return PublishedTask(self.bus, await publish(self.bus, task), coordinator=self.agent)

    def _handle(self, task: TaskRef, agent: str | None) -> TaskHandle:
        return task if isinstance(task, TaskHandle) else self.task(task, agent=agent)

    async def _each(
        self, tasks: Iterable[TaskRef], agent: str | None, work: Callable[[TaskHandle], Awaitable[_T]]
    ) -> list[_T | TaskFailure]:
        async def one(task: TaskRef) -> _T | TaskFailure:
            try:
                return await work(self._handle(task, agent))
            except AgentBusError as error:
                return _failure(task, agent, error)

        return await concurrently(tasks, one, at_once=_AT_ONCE)


def _failure(task: TaskRef, agent: str | None, error: AgentBusError) -> TaskFailure:
    if isinstance(task, TaskHandle):
        return TaskFailure(task.id, task.agent, error)
    return TaskFailure(task, agent, error)


@asynccontextmanager
async def connect(
    nats_url: str | None = None, *, config: Path | CoordinatorConfig | None = None, name: str = "agentbus"
) -> AsyncGenerator[Coordinator]:
    """Connect as a coordinator, for the length of the block.

    Without arguments the connection is that of the command line: AGENTBUS_NATS_URL, `~/.agentbus/coordinator.toml`,
    or the local `agentbus up`. A lost and a restored connection are logged by the logger `agentbus`.

    Raises:
        ConfigError: the configuration cannot be used.
        BusUnavailableError, AuthenticationError: no connection could be made.
    """
    if not isinstance(config, CoordinatorConfig):
        config, _ = load_coordinator(nats_url=nats_url, path=config)
    agent = config.coordinator.id

    def note(state: str) -> None:
        log.log(logging.INFO if bus.connected else logging.WARNING, "%s", state)

    bus = Bus(connection_settings(config.nats, agent=agent, name=name), note)
    try:
        await bus.open(patient=False)
        yield Coordinator(bus, agent)
    finally:
        await bus.close()
