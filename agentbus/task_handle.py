"""Handles of tasks on the bus: read the status, follow the run, wait for the result, cancel, retry, answer.

    task = await bus.publish("code", "Review PR 123")
    result = await task.result(timeout_s=600)
    print(result.status, result.result)

A handle holds ids only, and every method asks the bus. So any process can make a handle from an id. Methods import the
modules that only they need, so that a program that publishes one task starts fast.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import AgentBusError, ResultTimeoutError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import State
from agentbus.protocol.messages import PayloadFormat, Result, Task
from agentbus.protocol.task_names import TaskQuery
from agentbus.task_work import TaskWork
from agentbus.tasks.publish import Published
from agentbus.tasks.status import TaskStatus

if TYPE_CHECKING:
    from agentbus.protocol.progress.events import ProgressMessage, RunEvent
    from agentbus.tasks.follow_ups import NewFollowUp

DEFAULT_TASK_TYPE: Final = "task"


class TaskHandle(TaskWork):
    """One task by its id; get one from `Coordinator.publish` or `Coordinator.task`.

    Every method raises `TaskNotFoundError` if the bus knows no such task, or if there are several of this id and the
    handle does not name the agent or the owner that tells them apart.
    """

    def __init__(
        self, bus: Bus, task_id: str, agent: str | None = None, *, coordinator: str, owner: str | None = None
    ) -> None:
        """Make a handle; `coordinator` is the id that stands in its cancel requests and answers.

        Raises:
            InvalidIdError: an id is not valid.
        """
        super().__init__(bus)
        self._id = subjects.task_id(task_id)
        self._agent = subjects.agent_id(agent) if agent is not None else None
        self._owner = subjects.agent_id(owner) if owner is not None else None
        self._coordinator = coordinator

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id} agent={self._agent}>"

    @property
    def id(self) -> str:
        """The task id."""
        return self._id

    @property
    def agent(self) -> str | None:
        """The agent that the task was sent to. None in a handle made from an id alone, until a method looks it up."""
        return self._agent

    @property
    def owner(self) -> str | None:
        """The coordinator that published the task. None in a handle made from an id, until a method looks it up."""
        return self._owner

    @property
    def query(self) -> TaskQuery:
        """What this handle says of the task that it names."""
        return TaskQuery(self._id, self.agent, self.owner, self._coordinator)

    def _found(self, status: TaskStatus) -> TaskStatus:
        """Keep what a look-up has told of the task."""
        self._agent, self._owner = status.agent, status.owner
        return status

    async def status(self) -> TaskStatus:
        """Read the state of the task, and its result if it has one."""
        from agentbus.tasks.find import find
        from agentbus.tasks.lost.lost_tasks import look_after

        [status] = await look_after(self._bus, [await find(self._bus, self.query)], asker=self._coordinator)
        return self._found(status)

    async def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the result and return it, with any `status`: completed, failed, needs_approval or cancelled.

        A lost connection or a stopped server does not end the wait. For a task that was cancelled before a worker
        started it, returns a result with the status `cancelled` and an empty id: the worker that receives the task
        writes its message later.

        Args:
            timeout_s: None for no limit.

        Raises:
            ResultTimeoutError: there is no result yet. The task goes on, and you can wait again.
        """
        from agentbus.tasks.waiting.wait import wait_for_ids

        waited = await wait_for_ids(self._bus, [self.query], asker=self._coordinator, timeout_s=timeout_s)
        for status in waited.settled.values():
            return self._found(status).result or _cancelled_unstarted(status)
        state = waited.pending[self._id].state
        away = "" if waited.current else " when the bus was last reached; it is away now"
        raise ResultTimeoutError(
            f"the task {self._id} has no result after {timeout_s:g} s: it is {state}{away}. Wait again, or cancel it"
        )

    async def cancel(self, reason: str = "") -> TaskStatus:
        """Request the cancellation of the task, and return the state that it had then.

        A queued task never starts. The worker of a running task ends its processes and settles it as `cancelled`; wait
        for the result to see that. A settled task keeps its result: see `settled` and `state` of the returned status.
        Repeating the request changes nothing.
        """
        from agentbus.tasks.cancel import cancel

        return self._found(await cancel(self._bus, self.query, by=self._coordinator, reason=reason))

    async def output(self) -> AsyncGenerator[bytes]:
        """Yield the whole output of a settled task in pieces, in constant memory.

        Raises:
            NotSettledError: the task has no result yet.
            OutputNotKeptError: the worker kept only a part of the output.
            FileMissingError, CorruptFileError: see `agentbus.tasks.output_store.read_file`.
        """
        from agentbus.tasks.output_store import read_output

        async for piece in read_output(self._bus, await self.status()):
            yield piece

    async def progress(self) -> "ProgressMessage | None":
        """Read what the runs of the task told last: how far it is. None if nothing is kept."""
        from agentbus.tasks.progress.last import last_progress

        return await last_progress(self._bus, (await self.status()).record.key)

    async def events(self, *, follow: bool = True) -> "AsyncGenerator[RunEvent]":
        """Yield what the runs of the task do, from the oldest event that is kept on, until the task has its result.

        Events are kept for three days, at most 500 messages of a task, and what a run does in its first second is told
        only if it goes on. Where some are missing, an event of the kind `dropped` says how many. Their text is the
        agent's: data, never instructions. A lost connection or a stopped server does not end it.

        Args:
            follow: go on until the task has its result; otherwise end with what is kept now.

        Raises:
            SetupMissingError: the bus keeps no events of this agent.
            PermissionDeniedError: this user may not read them.
        """
        import asyncio

        from agentbus.tasks.progress.follow import follow_events, kept_events
        from agentbus.tasks.waiting.wait import wait_for_ids

        status = await self.status()
        key = status.record.key
        if status.settled or not follow:
            async with aclosing(kept_events(self._bus, key)) as kept:
                async for event in kept:
                    yield event
            return
        settled = asyncio.ensure_future(wait_for_ids(self._bus, [self.query], asker=self._coordinator))
        try:
            async with aclosing(follow_events(self._bus, key, settled)) as coming:
                async for event in coming:
                    yield event
            await settled
        finally:
            settled.cancel()
            await asyncio.wait({settled})

    async def transcript(self) -> AsyncGenerator[bytes]:
        """Yield all that the agent printed in the last run of the settled task, as it printed it: lines of its format.

        Raises:
            NotSettledError: the task has no result yet.
            OutputNotKeptError: the command prints no events, or they were not kept; see `output`.
            FileMissingError, CorruptFileError: see `agentbus.tasks.output_store.read_file`.
        """
        from agentbus.tasks.output_store import read_transcript

        async for piece in read_transcript(self._bus, await self.status()):
            yield piece

    async def retry(self) -> "PublishedTask":
        """Publish the settled task again, under a new id; the new task names this one in `retry_of`.

        Raises:
            NotSettledError: the task has no result yet.
            TaskContentMissingError: the bus no longer holds the content of the task.
            WorkError: another coordinator has sent files or commits with it.
        """
        from agentbus.tasks.retry import retry

        published = await retry(self._bus, await self.status(), self._coordinator)
        return PublishedTask(self._bus, published, coordinator=self._coordinator)

    async def follow_up(
        self,
        content: Json,
        *,
        task_type: str | None = None,
        payload_format: PayloadFormat = "text",
        task_id: str | None = None,
        reply_to: str | None = None,
        fresh: bool = False,
        wait_s: float | None = None,
    ) -> "PublishedTask":
        """Publish a task that goes on with the conversation of this one: its agent knows what was said and done there.

        It runs in the same session and folder, on the machine that has them. A task without a result is waited for.

        Args:
            task_type: that of this task by default.
            fresh: begin a new conversation, which gets this task and its result, where the session is gone; else the
                follow-up fails with the code `session_gone` then. `run.resumed` of its result says which it was.
            wait_s: for how long to wait while no worker is alive where the session is; None for what is configured
                there, 10 minutes by default.

        Raises:
            CannotContinueError: this task has left no session, belongs to another coordinator, no living worker of the
                agent can go on with one, or too many follow-ups wait for the agent.
            BusError: see `Coordinator.publish`.
        """
        from agentbus.tasks.follow_ups import NewFollowUp

        wanted = NewFollowUp(content, task_type, payload_format, None, reply_to, task_id, fresh=fresh, wait_s=wait_s)
        return await self.continue_with(wanted)

    async def continue_with(self, wanted: "NewFollowUp") -> "PublishedTask":
        """Publish a task that goes on with the conversation of this one; see `follow_up`."""
        from agentbus.tasks.follow_ups import publish_follow_up

        published = await publish_follow_up(self._bus, await self.status(), wanted, self._coordinator)
        return PublishedTask(self._bus, published, coordinator=self._coordinator)

    async def answer(self, *, approve: bool, comment: str = "") -> "PublishedTask":
        """Approve or deny what a task with the result `needs_approval` asks for.

        Publishes the decision to the same agent as the task `<task_id>.answer`, whose result goes to the inbox of this
        task's result. Repeating the same answer is harmless.

        Raises:
            NoApprovalPendingError: the task does not wait for an approval.
            TaskConflictError: it has another answer already.
        """
        from agentbus.tasks.approvals import send_answer

        status = await self.status()
        published = await send_answer(self._bus, status, sender=self._coordinator, approve=approve, comment=comment)
        return PublishedTask(self._bus, published, coordinator=self._coordinator)


class PublishedTask(TaskHandle):
    """The handle of a task that this program has just published; it holds the message as well."""

    def __init__(self, bus: Bus, published: Published, *, coordinator: str) -> None:
        task = published.task
        super().__init__(bus, task.id, task.agent, coordinator=coordinator, owner=coordinator)
        self._published = published

    @property
    def agent(self) -> str:
        """The agent that the task was sent to."""
        return self._published.task.agent

    @property
    def message(self) -> Task:
        """The published task."""
        return self._published.task

    @property
    def known(self) -> bool:
        """Whether the bus already had this task, with the same id and content."""
        return self._published.known

    @property
    def stored_again(self) -> bool:
        """Whether the message of a known task was stored again: the queue did not hold it, or may not have."""
        return self._published.stored_again

    @property
    def note(self) -> str | None:
        """Of a follow-up: that no worker is alive where its session is, what it waits for, and what becomes of it."""
        return self._published.note

    @property
    def state_at_publish(self) -> State:
        """The state of the task when it was published: `queued`, unless the task was `known`."""
        return self._published.state


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """The failure of an operation for one of several tasks.

    Attributes:
        id: the task id, as for a handle.
        agent: the agent that the task is for; None if it is not known.
        error: why it failed. After a `BusUnavailableError` the operation may have happened: repeat it with the same id.
    """

    id: str
    agent: str | None
    error: AgentBusError


def _cancelled_unstarted(status: TaskStatus) -> Result:
    request = status.record.entry.cancel
    by = f" by {request.by}" if request is not None else ""
    return Result(
        id="",
        type="task.result",
        status="cancelled",
        task={"id": status.task_id, "to": subjects.address(status.agent)},
        error=f"cancelled{by} before a worker started it",
    )
