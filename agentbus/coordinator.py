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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentbus import subjects
from agentbus.bus import Bus, StoredMessage
from agentbus.bus import connect as connect_bus
from agentbus.config import CoordinatorConfig, connection_settings, load_coordinator
from agentbus.errors import BusUnavailableError, MessageError, TaskNotFoundError
from agentbus.feed import Feed
from agentbus.ledger import STATE_HEADER, TERMINAL, Ledger, Record, read_entry
from agentbus.messages import Json, PayloadFormat, Result, Task, decode_result, encode, new_task
from agentbus.results import Inbox, InboxMessage, open_inbox
from agentbus.tasks import Published, publish

_READS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What the ledger says of one task."""

    record: Record

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.record.task_id

    @property
    def agent(self) -> str:
        """The id of the agent that the task was sent to."""
        return self.record.agent

    @property
    def state(self) -> str:
        """queued, working, completed, failed, needs_approval or cancelled."""
        return self.record.entry.state

    @property
    def settled(self) -> bool:
        """Whether the task has its one result."""
        return self.record.entry.terminal

    @property
    def result(self) -> Result | None:
        """The result, once the task is settled."""
        message = self.record.entry.result
        return None if message is None else decode_result(encode(message))

    def to_json(self) -> dict[str, Json]:
        """A plain account for people and models: state, times, attempt, worker, and the result if there is one."""
        entry = self.record.entry
        claim = entry.claim if entry.state == "working" else None
        account: dict[str, Json] = {
            "id": self.task_id,
            "agent": self.agent,
            "state": entry.state,
            "task_type": entry.task_type,
            "from": entry.sender,
            "reply_to": subjects.address(entry.inbox),
            "created_at": entry.created_at,
            "attempt": entry.attempt or None,
            "worker": claim.worker if claim else None,
            "working_since": claim.since if claim else None,
            "changed_at": self.record.changed_at.isoformat(),
            "cancel": entry.cancel.model_dump() if entry.cancel else None,
            "result": entry.result,
        }
        return {key: value for key, value in account.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Waited:
    """What a wait has come to: the tasks that have their result, and those that have not."""

    settled: dict[str, TaskStatus]
    pending: dict[str, TaskStatus]


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
        return TaskStatus(await self._find(subjects.task_id(task_id), agent))

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
        found.update(await self._find_all(_unsettled(found)))
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
                if state in TERMINAL:
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
    return [(record.task_id, record.agent) for record in found.values() if not record.entry.terminal]


def _enough(records: Iterable[Record], until: Literal["all", "any"]) -> bool:
    settled = [record.entry.terminal for record in records]
    return all(settled) if until == "all" else any(settled) or not settled


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
