"""The Python API of coordinators: publishes tasks, waits for them, reads and follows inboxes.

    async with agentbus.connect() as bus:
        task = await bus.publish("code", "Review PR 123")
        result = await task.result(timeout_s=600)
        print(result.status, result.result)

The command line and the MCP server use the same code. Methods import the modules that only they need, so that a
program that publishes one task starts fast.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from agentbus.bus.jetstream import Bus, unopened_bus
from agentbus.concurrently import concurrently
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.config.schema import CoordinatorConfig
from agentbus.coordinator_publishing import AT_ONCE, CoordinatorPublishing
from agentbus.coordinator_questions import CoordinatorQuestions
from agentbus.errors import AgentBusError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import State
from agentbus.protocol.listed.labels import group_name
from agentbus.protocol.roles import Role
from agentbus.protocol.task_names import task_name
from agentbus.task_handle import TaskFailure, TaskHandle
from agentbus.tasks.presence import Presence, present
from agentbus.tasks.status import TaskStatus, Waited

if TYPE_CHECKING:
    from agentbus.agent_overview import AgentOverview
    from agentbus.tasks.inbox import Inbox, InboxMessage
    from agentbus.tasks.listing.spending import Grouping, Spending
    from agentbus.tasks.listing.task_list import TaskList
    from agentbus.tasks.presence import PausedWorker
    from agentbus.tasks.waiting.listeners import OnQuestion
    from agentbus.tasks.waiting.wait import Until

TaskRef: TypeAlias = str | TaskHandle
"""A task by its id, by its name with the agent (`code/job-1`), or by its handle."""
_T = TypeVar("_T")

log = logging.getLogger("agentbus")
log.addHandler(logging.NullHandler())  # a library prints nothing unless its program asks for it


class Coordinator(CoordinatorQuestions, CoordinatorPublishing):
    """One coordinator on an open bus. Get one from `connect()`, or make one for an open `Bus`."""

    def __init__(self, bus: Bus, agent: str = subjects.COORDINATOR, role: Role | None = None) -> None:
        """Make a coordinator; `role` as the server's permissions hold it, None for the one that goes with the id."""
        super().__init__(bus, agent, role)
        bus.reads_queue = bus.reads_queue and self.role == "operator"
        bus.reads_whole_ledger = bus.reads_whole_ledger and self.role != "member"

    def task(self, task_id: str, *, agent: str | None = None, owner: str | None = None) -> TaskHandle:
        """Make a handle of a task from its id, without asking the bus; the methods of the handle do that.

        Args:
            task_id: the id, or the name `AGENT/ID` or `AGENT/~OWNER/ID`, which says the others as well.
            agent: the agent that the task was sent to. Needed only if several agents have a task of this id.
            owner: the coordinator that published it. Needed only if this one has a task of this id itself, or if
                several others have.

        Raises:
            InvalidIdError: an id is not valid, or the name has another agent or owner than the arguments.
        """
        name = task_name(task_id).of(agent, owner)
        return TaskHandle(self.bus, name.task_id, name.agent, coordinator=self.agent, owner=self._owner(name.owner))

    async def statuses(
        self, tasks: Iterable[TaskRef], *, agent: str | None = None, timeout_s: float = 0
    ) -> list[TaskStatus | TaskFailure]:
        """Read the states of tasks concurrently; returns a status or a failure for each, in order.

        Args:
            agent: the agent of the tasks that are given by their ids, as for `task`.
            timeout_s: how long to wait for a lost connection.
        """
        from agentbus.tasks.waiting.wait import repeat_while_away

        async def status(handle: TaskHandle) -> TaskStatus:
            return await repeat_while_away(self.bus, handle.status, timeout_s)

        return await self._each(tasks, agent, status)

    async def cancel_all(
        self, tasks: Iterable[TaskRef], *, agent: str | None = None, reason: str = ""
    ) -> list[TaskStatus | TaskFailure]:
        """Cancel tasks concurrently, as `TaskHandle.cancel` does; returns a status or a failure for each, in order."""
        return await self._each(tasks, agent, lambda handle: handle.cancel(reason))

    async def wait(
        self,
        tasks: Iterable[TaskRef],
        *,
        until: "Until" = "all",
        timeout_s: float | None = None,
        agent: str | None = None,
        on_change: Callable[[str, str], None] | None = None,
        on_paused: "Callable[[str, PausedWorker], None] | None" = None,
        on_question: "OnQuestion | None" = None,
    ) -> Waited:
        """Wait until all, or any, of the tasks have their result, or the time is over.

        Returns at once if nothing is left to wait for. A lost connection or a stopped server does not end the wait. If
        the bus is unreachable when the time is over, the states are those read last. A time-out does not affect the
        tasks.

        Args:
            timeout_s: None for no limit. Reaching it is not an error.
            agent: the agent of the tasks that are given by their ids, as for `task`.
            on_change: called with the task id and the new state whenever the ledger changes.
            on_paused: called once with the id of an agent, and why, if all its living workers are paused while a task
                is queued for it; a wait of less than a second looks for that at its end. Also in `Waited.paused`.
            on_question: called once with each question that a run asks a person; the wait ends if it returns True.

        Raises:
            TaskNotFoundError, InvalidIdError: the bus knows no task with one of the ids.
        """
        from agentbus.tasks.waiting.listeners import Listeners
        from agentbus.tasks.waiting.wait import wait_for_ids

        def report(status: TaskStatus) -> None:
            if on_change is not None:
                on_change(status.task_id, status.record.entry.state)

        def paused(agent: str, why: "PausedWorker") -> None:
            if on_paused is not None:
                on_paused(agent, why)

        handles = [self._handle(task, agent) for task in tasks]
        wanted = [handle.query for handle in handles]
        return await wait_for_ids(
            self.bus,
            wanted,
            asker=self.agent,
            until=until,
            timeout_s=timeout_s,
            listeners=Listeners(report if on_change is not None else None, paused, on_question),
        )

    async def list_tasks(  # noqa: PLR0913  # filters, each of which may be left out
        self,
        *,
        agent: str | None = None,
        owner: str | None = None,
        state: State | None = None,
        limit: int = 20,
        cursor: int | None = None,
        with_results: bool = True,
        search_s: float = 2.0,
        group: str | None = None,
        task_type: str | None = None,
        text: str | None = None,
        since: datetime | None = None,
    ) -> "TaskList":
        """List the tasks that changed last, of one agent or of all, of one owner or of all, in one state or in any.

        A member sees its own only.

        Args:
            group, task_type: only tasks of this group, or of this type.
            text: only tasks that have this in their id, the first words of their content, or their error.
            since: only tasks that changed last at this time or later.
            cursor: that of an earlier list, which this one continues towards older tasks.
            with_results: whether each status has its `result`. Without, it is None, and the list costs less.
            search_s: about how long to search for tasks in one state or of one owner; see `TaskList.partial`.

        Raises:
            InvalidIdError, MessageError: `agent` or `owner` is not an id, or `limit` is not from 1 to 200.
        """
        from agentbus.tasks.listing.task_list import list_tasks
        from agentbus.tasks.listing.wanted import Wanted

        wanted = Wanted.of(self, agent, owner, state=state, group=group, task_type=task_type, text=text)
        wanted = replace(wanted, with_results=with_results)
        return await list_tasks(self.bus, wanted, limit=limit, cursor=cursor, search_s=search_s, since=since)

    async def group_tasks(self, group: str) -> list[TaskStatus]:
        """List all tasks of a group, without their results, the last changed first. A member sees its own only.

        Raises:
            InvalidIdError: it is no name of a group.
        """
        from agentbus.tasks.listing.task_list import all_listed
        from agentbus.tasks.listing.wanted import Wanted

        return (await all_listed(self.bus, Wanted.of(self, group=group_name(group)))).tasks

    async def spending(
        self,
        by: "Grouping" = "agent",
        *,
        agent: str | None = None,
        since: datetime | None = None,
        group: str | None = None,
    ) -> "Spending":
        """Sum up what all runs of settled tasks used and cost, as their agents tell it, back to `since`.

        `by` is agent, model, day, sender or group. It looks at all that the ledger keeps. A member sees its own only.
        """
        from agentbus.tasks.listing.spending import all_spending
        from agentbus.tasks.listing.wanted import Wanted

        return await all_spending(self.bus, Wanted.of(self, agent, group=group, settled=True), by, since)

    async def lost_tasks(self, agent: str | None = None) -> list[TaskStatus]:
        """List the queued tasks of one agent or of all that the queue does not hold, so that no worker gets them.

        Those that are lost for sure, and for longer than a publication takes, are settled as `failed` and listed once.
        A member sees its own only. `TaskStatus.loss_note` says what to do.
        """
        from agentbus.tasks.lost.lost_tasks import lost_tasks

        only = subjects.agent_id(agent) if agent else None
        return await lost_tasks(self.bus, agent=only, owner=self._owner(None), asker=self.agent)

    async def agents(self, agent: str | None = None) -> list[Presence]:
        """List the online workers, of one agent or of all."""
        return await present(self.bus, subjects.agent_id(agent) if agent else None)

    async def overview(self, agent: str | None = None) -> "list[AgentOverview]":
        """List agents with their online workers and their backlog; see `overview_of_agents`."""
        from agentbus.agent_overview import overview_of_agents

        return await overview_of_agents(self.bus, subjects.agent_id(agent) if agent else None)

    async def pause_agent(self, agent: str, reason: str = "") -> None:
        """Have the workers of an agent take no tasks, those that start later as well, until `resume_agent`.

        Raises:
            ConfigError: this bus has no place for that yet; an administrator must upgrade it.
            PermissionDeniedError: this coordinator is no operator.
        """
        from agentbus.tasks.agent_pauses import pause_agent

        await pause_agent(self.bus, subjects.agent_id(agent), by=self.agent, reason=reason)

    async def resume_agent(self, agent: str) -> None:
        """Have the workers of an agent take tasks again; one that had paused by itself tries a task at once."""
        from agentbus.tasks.agent_pauses import resume_agent

        await resume_agent(self.bus, subjects.agent_id(agent), by=self.agent)

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

    def _handle(self, task: TaskRef, agent: str | None) -> TaskHandle:
        return task if isinstance(task, TaskHandle) else self.task(task, agent=agent)

    async def _each(
        self, tasks: Iterable[TaskRef], agent: str | None, work: Callable[[TaskHandle], Awaitable[_T]]
    ) -> list[_T | TaskFailure]:
        async def one(task: TaskRef) -> _T | TaskFailure:
            try:
                return await work(self._handle(task, agent))
            except AgentBusError as error:
                named = (task.id, task.agent) if isinstance(task, TaskHandle) else (task, agent)
                return TaskFailure(*named, error)

        return await concurrently(tasks, one, at_once=AT_ONCE)


@asynccontextmanager
async def connect(
    nats_url: str | None = None, *, config: Path | CoordinatorConfig | None = None, name: str = "agentbus"
) -> AsyncGenerator[Coordinator]:
    """Connect as a coordinator, for the length of the block.

    Without arguments the connection is that of the command line: AGENTBUS_NATS_URL, `~/.agentbus/coordinator.toml`,
    or the local `agentbus up`. The logger `agentbus` reports a lost and a restored
    connection, and a task for an agent that the bus has never seen.

    Raises:
        ConfigError: the configuration is not valid.
        BusUnavailableError, AuthenticationError: the connection failed.
    """
    if not isinstance(config, CoordinatorConfig):
        config, _ = load_coordinator(nats_url=nats_url, path=config)
    agent, role = config.coordinator.id, config.coordinator.effective_role

    def log_state(state: str) -> None:
        log.log(logging.INFO if bus.connected else logging.WARNING, "%s", state)

    bus = unopened_bus(connection_settings(config.nats, agent=agent, name=name), log_state)
    try:
        await bus.open(retry_on_failed_connect=False)
        coordinator = Coordinator(bus, agent, role)
        coordinator.warns_of_unknown = True
        yield coordinator
    finally:
        await bus.close()
