"""The coordinator's side for programs: publish tasks, wait for them, read and watch inboxes.

    async with agentbus.connect() as bus:
        [task] = await bus.publish("code", "Review PR 123", task_type="review_pr")
        outcome = await bus.wait([task.id], timeout_s=600)
        print(outcome.settled[task.id].result)

The command line and the MCP server use the same code.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, cast

from agentbus import subjects
from agentbus.bus import Bus, StoredMessage
from agentbus.bus import connect as connect_bus
from agentbus.config import CoordinatorConfig, connection_settings, load_coordinator
from agentbus.errors import (
    AgentBusError,
    BusUnavailableError,
    MessageError,
    PermissionDeniedError,
    TaskNotFoundError,
    WrongRevisionError,
)
from agentbus.expiry import settle_expired
from agentbus.feed import Feed
from agentbus.files import read_file
from agentbus.ledger import STATE_HEADER, CancelWish, Ledger, Record, read_entry
from agentbus.messages import (
    Json,
    PayloadFormat,
    Task,
    decode_task,
    encode,
    new_task,
    new_task_id,
    now,
)
from agentbus.registry import Presence, present
from agentbus.results import Inbox, InboxMessage, open_inbox
from agentbus.status import TaskStatus, Waited
from agentbus.streams import consumers_of
from agentbus.tasks import Published, publish

_READS_AT_ONCE = 16


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
            BusUnavailableError: see `agentbus.tasks.publish`; the tasks before it are on the bus.
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
        return TaskStatus(await settle_expired(self.bus, await self._find(subjects.task_id(task_id), agent)))

    async def cancel(self, task_id: str, *, agent: str | None = None, reason: str = "") -> TaskStatus:
        """Ask for a task to be cancelled, and say what state that found it in.

        A queued task never starts; a running one has its processes ended and gets the result `cancelled`, which names
        who asked and why. Asking again changes nothing. A task that has its result keeps it: look at `settled` and
        `state` of what is returned. Wait for the task to see a running one end.

        Raises:
            TaskNotFoundError, InvalidIdError: there is no such task.
        """
        while True:
            record = await self._find(subjects.task_id(task_id), agent)
            entry = record.entry
            if not entry.terminal and entry.cancel is None:
                wish = CancelWish(by=subjects.address(self.agent), reason=reason, at=now())
                entry = entry.model_copy(update={"cancel": wish})
                try:
                    await Ledger(self.bus).write(record.agent, task_id, entry, revision=record.revision)
                except WrongRevisionError:
                    continue
            if not entry.terminal:
                # The ledger makes it sure: the owner sees the wish when it next renews its lease. This makes it fast.
                await self.bus.publish(subjects.control(record.agent), encode({"cancel": task_id}))
            return TaskStatus(await self._find(task_id, record.agent))

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
            FileMissingError, CorruptFileError: see `agentbus.files.read_file`.
        """
        status = await self.task(task_id, agent=agent)
        if status.result is None:
            raise AgentBusError(f"the task {task_id} is {status.state}; it has no output yet")
        note = status.output_note
        if not note.get("truncated"):
            yield str(status.result.result).encode()
            return
        name = cast("dict[str, Json]", note.get("file") or {}).get("name")
        if not isinstance(name, str):
            raise AgentBusError(f"only the first {note.get('kept')} of {note.get('bytes')} bytes of output were kept")
        async for piece in read_file(self.bus, status.agent, name):
            yield piece

    async def agents(self, agent: str | None = None) -> list[Presence]:
        """The workers that are alive, of one agent or of all."""
        return await present(self.bus, subjects.agent_id(agent) if agent else None)

    async def wait(
        self,
        task_ids: Iterable[str],
        *,
        until: Literal["all", "any"] = "all",
        timeout_s: float | None = None,
        on_change: Callable[[str, str], None] | None = None,
    ) -> Waited:
        """Wait until all, or any, of the tasks have their result, or the time is over.

        Returns at once when nothing is left to wait for. Losing the connection or the server does not end the wait;
        giving it up does nothing to the tasks.

        Args:
            timeout_s: seconds, or None to wait for as long as it takes. Reaching it is no error.
            on_change: told the task id and the new state whenever the ledger changes.

        Raises:
            TaskNotFoundError, InvalidIdError: for an id that nobody has published.
        """
        found = await self._find_all((subjects.task_id(task_id), None) for task_id in task_ids)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not _enough(found.values(), until):
                    try:
                        await self._watch(found, until, on_change)
                    except BusUnavailableError:  # the connection broke over a request: look again on the next one
                        await self.bus.wait_connected()
        for record in (await self._find_all(_unsettled(found))).values():
            found[record.agent, record.task_id] = await settle_expired(self.bus, record)
        statuses = {record.task_id: TaskStatus(record) for record in found.values()}
        return Waited(
            settled={task_id: status for task_id, status in statuses.items() if status.settled},
            pending={task_id: status for task_id, status in statuses.items() if not status.settled},
        )

    async def _watch(
        self,
        found: dict[tuple[str, str], Record],
        until: Literal["all", "any"],
        on_change: Callable[[str, str], None] | None,
    ) -> None:
        """Follow the ledger, and keep `found` up with it, until enough of the tasks are settled."""
        agents = {agent for agent, _ in found}
        watched = subjects.states(agents.pop()) if len(agents) == 1 else subjects.STATE_SUBJECTS
        async with Feed(self.bus, subjects.STATE_STREAM, watched, after="new", headers_only=True) as feed:
            # Read again now that changes are being watched: nothing falls between the two.
            found.update(await self._find_all(_unsettled(found)))
            while not _enough(found.values(), until):
                change = await feed.next()
                key = subjects.parse_state(change.subject)
                if key is None or key not in found:
                    continue
                state = change.headers.get(STATE_HEADER, "")
                if state != "working":
                    found[key] = await self._find(key[1], key[0])
                if on_change is not None:
                    on_change(key[1], state)

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

    async def _find(self, task_id: str, agent: str | None) -> Record:
        if agent is not None:
            found = await Ledger(self.bus).read(subjects.agent_id(agent), task_id)
            if not isinstance(found, Record):
                raise TaskNotFoundError(f"no task {task_id} of the agent {agent} is known on this bus")
            return found
        records: dict[str, Record] = {}
        async with Feed(self.bus, subjects.STATE_STREAM, subjects.states_of_task(task_id), after=0) as feed:
            async for message in feed.backlog():
                stored = StoredMessage(
                    message.subject, message.stream_seq, message.stored_at, message.headers, message.data
                )
                record = read_entry(stored)
                if isinstance(record, Record):
                    records[record.agent] = record
        if not records:
            raise TaskNotFoundError(f"no task {task_id} is known on this bus; ids are kept for 38 days")
        if len(records) > 1:
            agents = ", ".join(records)
            raise TaskNotFoundError(f"several agents have a task {task_id} ({agents}); name the agent")
        return next(iter(records.values()))

    async def _find_all(self, wanted: Iterable[tuple[str, str | None]]) -> dict[tuple[str, str], Record]:
        """The entries of (task id, agent) pairs by (agent, task id), read a bounded number at a time."""
        gate = asyncio.Semaphore(_READS_AT_ONCE)

        async def find(task_id: str, agent: str | None) -> Record:
            async with gate:
                return await self._find(task_id, agent)

        try:
            async with asyncio.TaskGroup() as group:
                finds = [group.create_task(find(task_id, agent)) for task_id, agent in wanted]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # they fail alike, and callers handle one error
        return {(record.agent, record.task_id): record for record in (find.result() for find in finds)}


def _unsettled(found: dict[tuple[str, str], Record]) -> list[tuple[str, str | None]]:
    return [(record.task_id, record.agent) for record in found.values() if not TaskStatus(record).settled]


def _enough(records: Iterable[Record], until: Literal["all", "any"]) -> bool:
    done = [TaskStatus(record).settled for record in records]
    return all(done) if until == "all" else any(done) or not done


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
