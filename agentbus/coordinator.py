"""The coordinator's side for programs: publish tasks, wait for them, read and watch inboxes.

    async with agentbus.connect() as bus:
        [task] = await bus.publish("code", "Review PR 123", task_type="review_pr")
        outcome = await bus.wait([task.id], timeout_s=600)
        print(outcome.settled[task.id].result)

The command line and the MCP server use the same code.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal, cast

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream import connect as connect_bus
from agentbus.bus.setup import consumers_of
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.config.schema import CoordinatorConfig
from agentbus.errors import AgentBusError, MessageError, PermissionDeniedError, WrongRevisionError
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.ids import new_task_id
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.ledger_entry import CancelRequest, State
from agentbus.protocol.messages import PayloadFormat, Task, decode_task, new_task
from agentbus.protocol.timestamps import now
from agentbus.tasks.approvals import send_answer
from agentbus.tasks.expiry import settle_expired
from agentbus.tasks.find import find, find_newer
from agentbus.tasks.inbox import Inbox, InboxMessage, open_inbox
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.output_store import read_file
from agentbus.tasks.presence import Presence, present
from agentbus.tasks.publish import Published, publish
from agentbus.tasks.status import TaskStatus, Waited
from agentbus.tasks.task_list import TaskList, list_tasks
from agentbus.tasks.wait import look_up, wait_for


class Coordinator:
    """One coordinator on an open bus. Make it with `connect()`, or over a `Bus` of your own."""

    def __init__(self, bus: Bus, agent: str = subjects.COORDINATOR) -> None:
        self.bus = bus
        self.agent = agent

    async def publish(
        self,
        to: str | Sequence[str],
        content: Json,
        *,
        task_type: str,
        payload_format: PayloadFormat = "text",
        sender: str | None = None,
        reply_to: str | None = None,
        task_id: str | None = None,
    ) -> list[Task]:
        """Give the same task to one or several agents; each gets a message, and a task id, of its own.

        Returns the tasks in the order of `to`, once JetStream has them all. With a `task_id` of your own the call can
        be repeated; for several targets it becomes `<task_id>-<agent>`.

        Raises:
            InvalidIdError, MessageError: before anything is published.
            TaskConflictError, TooLargeError, SetupMissingError, StreamFullError, PermissionDeniedError,
            BusUnavailableError: see `agentbus.tasks.publish.publish`; the tasks before it are on the bus.
        """
        tasks = self.build(
            to,
            content,
            task_type=task_type,
            payload_format=payload_format,
            sender=sender,
            reply_to=reply_to,
            task_id=task_id,
        )
        return [(await publish(self.bus, task)).task for task in tasks]

    def build(
        self,
        to: str | Sequence[str],
        content: Json,
        *,
        task_type: str,
        payload_format: PayloadFormat = "text",
        sender: str | None = None,
        reply_to: str | None = None,
        task_id: str | None = None,
    ) -> list[Task]:
        """The tasks that `publish` would send, valid and unsent.

        Raises:
            InvalidIdError, MessageError: an id, the type or the content is not valid, or there is no target.
        """
        targets = list(dict.fromkeys(subjects.agent_id(name) for name in ([to] if isinstance(to, str) else to)))
        if not targets:
            raise MessageError("name at least one agent to give the task to")
        return [
            new_task(
                to=target,
                content=content,
                task_type=task_type,
                payload_format=payload_format,
                sender=sender or self.agent,
                reply_to=reply_to,
                task_id=f"{task_id}-{target}" if task_id is not None and len(targets) > 1 else task_id,
            )
            for target in targets
        ]

    async def send(self, task: Task) -> Published:
        """Publish one built task; tells whether it was known, and in which state it is."""
        return await publish(self.bus, task)

    async def task(self, task_id: str, *, agent: str | None = None) -> TaskStatus:
        """What became of a task.

        Raises:
            TaskNotFoundError: no ledger entry has this id, or several agents have one and `agent` is not given.
            InvalidIdError: it is not a task id.
        """
        [record] = await settle_expired(self.bus, [await find(self.bus, subjects.task_id(task_id), agent)])
        return TaskStatus(record)

    async def cancel(self, task_id: str, *, agent: str | None = None, reason: str = "") -> TaskStatus:
        """Ask for a task to be cancelled, and say what state that found it in.

        A queued task never starts; a running one has its processes ended and gets the result `cancelled`, which names
        who asked and why. Asking again changes nothing. A task that has its result keeps it: look at `settled` and
        `state` of what is returned. Wait for the task to see a running one end.

        Raises:
            TaskNotFoundError, InvalidIdError: there is no such task.
        """
        while True:
            record = await find(self.bus, subjects.task_id(task_id), agent)
            entry, revision = record.entry, record.revision
            if not entry.terminal and entry.cancel is None:
                wish = CancelRequest(by=subjects.address(self.agent), reason=reason, at=now())
                entry = entry.model_copy(update={"cancel": wish})
                try:
                    revision = await Ledger(self.bus).write(record.agent, task_id, entry, revision=revision)
                except WrongRevisionError:
                    continue
            if not entry.terminal:
                # The ledger makes it sure: the owner sees the wish when it next renews its lease. This makes it fast.
                await self.bus.publish(subjects.control(record.agent), encode({"cancel": task_id}))
            return TaskStatus(await find_newer(self.bus, record, revision))

    async def answer(self, task_id: str, *, approve: bool, comment: str = "", agent: str | None = None) -> Published:
        """Approve or deny what a task with the result `needs_approval` asks for.

        The decision goes to the same agent as a task `<task_id>.answer`, whose result goes where that of the first
        went. Repeating the same answer is harmless.

        Raises:
            TaskNotFoundError, InvalidIdError: there is no such task.
            TaskConflictError: it was answered before, differently.
            AgentBusError: it does not wait for an approval.
        """
        status = await self.task(task_id, agent=agent)
        return await send_answer(self.bus, status, sender=self.agent, approve=approve, comment=comment)

    async def retry(self, task_id: str, *, agent: str | None = None) -> Task:
        """Publish a settled task anew, under a new id; the new task names the old one in `retry_of`.

        Raises:
            TaskNotFoundError, InvalidIdError: there is no such task.
            AgentBusError: it is not settled yet, or its content is not known any more.
        """
        status = await self.task(task_id, agent=agent)
        result = status.result
        if result is None:
            raise AgentBusError(f"the task {task_id} is {status.state}; only a task that has its result can be retried")
        try:
            old = decode_task(encode(result.task))
        except MessageError:
            old = None
        # A result that was made without the message, or that had no room for all of it, does not hold the content.
        if old is None or old.digest() != status.record.entry.digest:
            raise AgentBusError(f"the content of the task {task_id} is not known any more; publish it as a new task")
        again = {**result.task, "id": new_task_id(), "created_at": now(), "retry_of": task_id}
        task = decode_task(encode(again))
        await publish(self.bus, task)
        return task

    async def output(self, task_id: str, *, agent: str | None = None) -> AsyncGenerator[bytes]:
        """Yield the whole output of a settled task, piece by piece, in constant memory.

        Raises:
            TaskNotFoundError, InvalidIdError: there is no such task.
            AgentBusError: it has no result yet, or only a part of its output was kept.
            FileMissingError, CorruptFileError: see `agentbus.tasks.output_store.read_file`.
        """
        status = await self.task(task_id, agent=agent)
        if status.result is None:
            raise AgentBusError(f"the task {task_id} is {status.state}; it has no output yet")
        note = status.output_note
        if not note.get("truncated"):
            yield str(status.result.result).encode()
            return
        file = note.get("file")
        name = cast("dict[str, Json]", file).get("name") if isinstance(file, dict) else None
        if not isinstance(name, str):
            raise AgentBusError(f"only the first {note.get('kept')} of {note.get('bytes')} bytes of output were kept")
        async for piece in read_file(self.bus, status.agent, name):
            yield piece

    async def list_tasks(
        self, *, agent: str | None = None, state: State | None = None, limit: int = 20, cursor: int | None = None
    ) -> TaskList:
        """The newest tasks by last change, of one agent or of all, in one state or in any.

        Raises:
            InvalidIdError, MessageError: `agent` is no agent id, or `limit` is not from 1 to 200.
        """
        only = subjects.agent_id(agent) if agent else None
        return await list_tasks(self.bus, agent=only, state=state, limit=limit, cursor=cursor)

    async def agents(self, agent: str | None = None) -> list[Presence]:
        """The workers that are alive, of one agent or of all."""
        return await present(self.bus, subjects.agent_id(agent) if agent else None)

    async def wait(
        self,
        task_ids: Iterable[str],
        *,
        until: Literal["all", "any"] = "all",
        timeout_s: float | None = None,
        agent: str | None = None,
        on_change: Callable[[str, str], None] | None = None,
    ) -> Waited:
        """Wait until all, or any, of the tasks have their result, or the time is over.

        Returns at once when nothing is left to wait for. Losing the connection or the server does not end the wait; if
        it is away when the time is over, the states are those seen last. Giving up does nothing to the tasks.

        Args:
            timeout_s: seconds, or None to wait for as long as it takes. Reaching it is no error.
            agent: the agent that has them all, needed where several have a task of the same id, and where one may not
                read the states of every agent's tasks.
            on_change: told the task id and the new state whenever the ledger changes.

        Raises:
            TaskNotFoundError, InvalidIdError: for an id that nobody has published.
        """
        found = await look_up(self.bus, task_ids, timeout_s, agent=agent)

        def tell(status: TaskStatus) -> None:
            if on_change is not None:
                on_change(status.task_id, status.record.entry.state)

        waited = await wait_for(self.bus, found, until=until, timeout_s=timeout_s, on_change=tell)
        for status in waited.settled.values():
            tracing.link(status.record.headers)
        return waited

    async def results(self, newest: int = 1, *, agent: str | None = None) -> list[InboxMessage]:
        """The newest messages of an inbox (one's own by default), oldest first."""
        async with self.inbox(newest=newest, agent=agent) as inbox:
            return await inbox.history()

    def inbox(
        self, *, newest: int | None = None, after: int | None = None, agent: str | None = None
    ) -> AbstractAsyncContextManager[Inbox]:
        """Open an inbox (one's own by default) to read what is there and then watch it; see `open_inbox`."""
        return open_inbox(self.bus, subjects.agent_id(agent or self.agent), newest=newest, after=after)

    async def overview(self, agent: str | None = None) -> list[dict[str, Json]]:
        """Agents with their living workers and their backlog, by name: those alive, and those that have a consumer.

        `waiting` counts the tasks that no worker has been given, `unacknowledged` those that one has. Without the
        right to look at consumers, only living agents are listed and both are left out.
        """
        backlog = await self._backlog(agent)
        workers = await self.agents(agent)
        names = sorted({worker.agent for worker in workers} | set(backlog))
        return [
            {
                "agent": name,
                "online": any(worker.agent == name for worker in workers),
                **backlog.get(name, {}),
                "workers": [worker.model_dump() for worker in workers if worker.agent == name],
            }
            for name in names
        ]

    async def _backlog(self, agent: str | None) -> dict[str, dict[str, Json]]:
        try:
            consumers = await consumers_of(self.bus, subjects.TASKS_STREAM)
        except PermissionDeniedError:
            return {}
        found: dict[str, dict[str, Json]] = {}
        for consumer in consumers:
            name = subjects.agent_of(str(consumer["config"].get("filter_subject")), "tasks")
            if name is not None and agent in (None, name):
                found[name] = {"waiting": consumer["num_pending"], "unacknowledged": consumer["num_ack_pending"]}
        return found


@asynccontextmanager
async def connect(
    nats_url: str | None = None, *, config: Path | CoordinatorConfig | None = None, name: str = "agentbus"
) -> AsyncGenerator[Coordinator]:
    """Connect as a coordinator, for the length of the block.

    Without arguments the connection is that of the command line: AGENTBUS_NATS_URL, `~/.agentbus/coordinator.toml`,
    or the local `agentbus up`.

    Raises:
        ConfigError: the configuration cannot be used.
        BusUnavailableError, AuthenticationError: there is no connection to be had.
    """
    if not isinstance(config, CoordinatorConfig):
        config, _ = load_coordinator(nats_url=nats_url, path=config)
    agent = config.coordinator.id
    async with connect_bus(connection_settings(config.nats, agent=agent, name=name)) as bus:
        yield Coordinator(bus, agent)
