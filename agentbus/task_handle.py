"""Handles of tasks: what a program holds of a task that is on the bus.

    task = await bus.publish("code", "Review PR 123")
    result = await task.result(timeout_s=600)
    print(result.status, result.result)

A handle holds ids only. Every method asks the bus, so a handle can be made from an id alone, in another process too.
A method imports what only it needs, so that a program that publishes one task starts fast.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from agentbus.bus.jetstream import Bus
from agentbus.errors import AgentBusError, ResultTimeoutError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import State
from agentbus.protocol.messages import Result, Task
from agentbus.tasks.publish import Published, publish
from agentbus.tasks.status import TaskStatus


class TaskHandle:
    """One task by its id; get one from `Coordinator.publish` or `Coordinator.task`.

    Every method raises `TaskNotFoundError` if the bus knows no such task, or if several agents have a task of this id
    and the handle does not know which one is meant.
    """

    def __init__(self, bus: Bus, task_id: str, agent: str | None = None, *, coordinator: str) -> None:
        """Make a handle; `coordinator` is the agent id in whose name it cancels and answers.

        Raises:
            InvalidIdError: an id is not valid.
        """
        self._bus = bus
        self._id = subjects.task_id(task_id)
        self._agent = subjects.agent_id(agent) if agent is not None else None
        self._coordinator = coordinator

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id} agent={self._agent}>"

    @property
    def id(self) -> str:
        """The task id."""
        return self._id

    @property
    def agent(self) -> str | None:
        """The agent that the task was sent to. None until a look-up of a handle made from an id alone finds it."""
        return self._agent

    async def status(self) -> TaskStatus:
        """Read the state of the task, and its result if it has one."""
        from agentbus.tasks.expiry import settle_expired
        from agentbus.tasks.find import find

        [record] = await settle_expired(self._bus, [await find(self._bus, self._id, self._agent)])
        self._agent = record.agent
        return TaskStatus(record)

    async def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the result and return it, whatever its `status`: completed, failed, needs_approval or cancelled.

        Losing the connection or the server does not end the wait. A task that was cancelled before a worker started
        it gives a result with the status `cancelled` and an empty id: its message is written when a worker meets it.

        Args:
            timeout_s: seconds, or None to wait as long as it takes.

        Raises:
            ResultTimeoutError: there is no result yet; the task goes on, and you can wait again.
        """
        from agentbus.tasks.wait import wait_for_ids

        waited = await wait_for_ids(self._bus, [(self._id, self._agent)], timeout_s=timeout_s)
        for status in waited.settled.values():
            self._agent = status.agent
            return status.result or _cancelled_unstarted(status)
        state = waited.pending[self._id].state
        away = "" if waited.current else " when the bus was last reached; it is away now"
        raise ResultTimeoutError(
            f"the task {self._id} has no result after {timeout_s:g} s: it is {state}{away}. Wait again, or cancel it"
        )

    async def cancel(self, reason: str = "") -> TaskStatus:
        """Ask for the task to be cancelled, and return the state in which that found it.

        A queued task never starts; a running one has its processes ended and gets the result `cancelled`. Asking
        again changes nothing. A settled task keeps its result: look at `settled` and `state` of what is returned.
        Wait for the result to see a running task end.
        """
        from agentbus.tasks.cancel import cancel

        status = await cancel(self._bus, self._id, agent=self._agent, by=self._coordinator, reason=reason)
        self._agent = status.agent
        return status

    async def output(self) -> AsyncGenerator[bytes]:
        """Yield the whole output of a settled task, piece by piece, in constant memory.

        Raises:
            NotSettledError: the task has no result yet.
            OutputNotKeptError: only a part of its output was kept.
            FileMissingError, CorruptFileError: see `agentbus.tasks.output_store.read_file`.
        """
        from agentbus.tasks.output_store import read_output

        async for piece in read_output(self._bus, await self.status()):
            yield piece

    async def retry(self) -> "PublishedTask":
        """Publish the settled task again, under a new id; the new task names this one in `retry_of`.

        Raises:
            NotSettledError: the task has no result yet.
            TaskContentMissingError: the bus does not hold the content of the task any more.
        """
        from agentbus.tasks.retry import retry_of

        published = await publish(self._bus, retry_of(await self.status()))
        return PublishedTask(self._bus, published, coordinator=self._coordinator)

    async def answer(self, *, approve: bool, comment: str = "") -> "PublishedTask":
        """Approve or deny what a task with the result `needs_approval` asks for.

        The decision goes to the same agent as a task `<task_id>.answer`, whose result goes where that of this task
        went. Repeating the same answer is harmless.

        Raises:
            NoApprovalPendingError: the task does not wait for an approval.
            TaskConflictError: it was answered before, differently.
        """
        from agentbus.tasks.approvals import send_answer

        status = await self.status()
        published = await send_answer(self._bus, status, sender=self._coordinator, approve=approve, comment=comment)
        return PublishedTask(self._bus, published, coordinator=self._coordinator)


class PublishedTask(TaskHandle):
    """The handle of a task that this program has just published: it knows the message as well."""

    def __init__(self, bus: Bus, published: Published, *, coordinator: str) -> None:
        super().__init__(bus, published.task.id, published.task.agent, coordinator=coordinator)
        self._published = published

    @property
    def agent(self) -> str:
        """The agent that the task was sent to."""
        return self._published.task.agent

    @property
    def message(self) -> Task:
        """The task as it was published."""
        return self._published.task

    @property
    def known(self) -> bool:
        """Whether the task was on the bus before, with the same content, under the same id."""
        return self._published.known

    @property
    def state_at_publish(self) -> State:
        """The state that publishing found: `queued`, unless the task was `known`."""
        return self._published.state


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """One task of many for which an operation failed.

    Attributes:
        id: the task id, as for a handle.
        agent: the agent that the task is for; None if it is not known.
        error: why. After a `BusUnavailableError` the operation may have happened: repeat it under the same id.
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
