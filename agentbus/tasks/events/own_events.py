"""Follows the events of a coordinator's own tasks: settled, asks a question, worker lost or paused; each is told once.

The one source for `agentbus watch`, `agentbus notify`, pages and servers:

    async with open_events(bus, "main", position) as events:  # a position that was stored; None: from now on
        while True:
            event = await events.next()                       # a TaskEvent: .kind, .task, .status, .line, .to_json()
            ...                                               # handle it, then keep events.position
            write_position(file, events.position)

It reads the ledger: headers tell the state of a task, and a key has one owner, which the server's permissions hold to
be true. The last change of each task is kept there, so a reader that was away for an hour gets each event of that hour,
in order. A lost connection ends nothing. A question that is open when reading begins is told, too.

What no change shows is looked for every few seconds: tasks whose worker was not heard of for longer than its lease, and
agents of queued tasks whose workers are all paused. That also settles what has expired, as any wait does.
"""

import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import anyio

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ledger_parts import ledger_parts
from agentbus.errors import AgentBusError, BusError, CorruptEntryError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.headers import KV_OPERATION, QUESTIONS, STATE
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.listed.summary import read_summary
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.events.following import open_consumer, raising_the_first
from agentbus.tasks.events.ledger_feed import follow_ledger
from agentbus.tasks.events.open_tasks import OpenTasks
from agentbus.tasks.events.position import Position
from agentbus.tasks.events.task_event import TaskEvent, failure_word, pause_word
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.listing.task_list import Search
from agentbus.tasks.listing.wanted import Wanted
from agentbus.tasks.lost.lost_tasks import look_after
from agentbus.tasks.questions.asked import asked_by
from agentbus.tasks.status import TaskStatus
from agentbus.tasks.waiting.paused_agents import paused_among

log = logging.getLogger("agentbus")

_RETRY_S: Final = 1.0
_REFUSED_RETRY_S: Final = 30.0
"""Permissions change when an operator changes them."""
LOOK_S: Final = 10.0
"""How often tasks and agents are looked at: a worker renews its claim every few seconds, and people read the events."""
_EXPIRY_LOOKS: Final = 12
"""Every how many looks queued tasks are read, of which some may have expired: as often as a wait does."""
_SILENT_S: Final = 15.0
_GRACE_S: Final = 5.0
_READ_AT_A_LOOK: Final = 50
_KNOWN_AT_FIRST: Final = 400
_KNOWN_S: Final = 2.0
"""How long the search for tasks that were open before the first change may take, about."""
_OVER: Final = frozenset({"completed", "failed", "cancelled", "needs_approval"})
_UNKNOWN: Final = ""
"""The state of an entry that says none: an older publisher wrote it."""


class OwnEvents:
    """The events that are followed; see `open_events`.

    Attributes:
        position: what was told so far. It holds the event that `next` returned last.
    """

    def __init__(self, bus: Bus, own: str, position: Position, of: Callable[[TaskKey], bool]) -> None:
        self.position = position
        self._bus = bus
        self._own = own
        self._of = of
        self._ledger = Ledger(bus)
        self._open = OpenTasks()
        self._changed: dict[str, Delivery] = {}
        self._found: deque[TaskEvent] = deque()
        self._news = anyio.Event()
        self._opened = anyio.Event()
        self._paused: set[str] = set()
        self._sees_workers = True

    async def next(self) -> TaskEvent:
        """Wait for the next event, over lost connections and restarts of the server."""
        while True:
            while self._found:
                event = self._found.popleft()
                if not self.position.has_told(event):
                    self.position.tell(event)
                    return event
            if self._changed:
                subject = next(iter(self._changed))
                await self._read(self._changed[subject])
                continue
            self._news = anyio.Event()
            await self._news.wait()

    async def opened(self) -> None:
        """Wait until no later event can be missed."""
        await self._opened.wait()

    # -- the ledger -------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Follow the ledger until this is cancelled, and begin again after each failure."""
        subject, said = subjects.states(owner=self._own), ""
        while True:
            pause_s = _RETRY_S
            try:
                if self.position.at is None:
                    self.position.begin(await _server_time(self._bus, subject))
                await follow_ledger(self._bus, subject, None, self._opened.set, self._note, since=self.position.since)
            except AgentBusError as error:
                if isinstance(error, PermissionDeniedError):
                    pause_s = _REFUSED_RETRY_S
                if str(error) != said:
                    said = str(error)
                    log.warning("cannot follow the events of tasks at present: %s", said)
            await anyio.sleep(pause_s)

    def _note(self, delivery: Delivery | None) -> None:
        """Take a change of the ledger. Only the newest of each task counts, so a slow reader costs no memory."""
        key = subjects.parse_state(delivery.subject) if delivery is not None else None
        if delivery is None or key is None or key.owner != self._own or not self._of(key):
            return
        state = delivery.headers.get(STATE, _UNKNOWN)
        if delivery.headers.get(KV_OPERATION) is not None:
            self._open.is_over(key)
        elif state in {"working", "queued"}:
            (self._open.is_working if state == "working" else self._open.is_queued)(key)
            if self._open.has_news(key, delivery.headers.get(QUESTIONS, "")):
                self._take(delivery)
        elif state in _OVER or state == _UNKNOWN:
            self._open.is_over(key)
            self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        self._changed.pop(delivery.subject, None)
        self._changed[delivery.subject] = delivery
        self._news.set()

    async def _read(self, delivery: Delivery) -> None:
        """Find the events of a change, and forget it unless there is a newer one by then."""
        key = subjects.parse_state(delivery.subject)
        assert key is not None, "others are not noted"
        record = read_summary(delivery.stored) if delivery.headers.get(STATE) in _OVER else None
        if record is None:
            record = await self._record(key, delivery.stream_seq)
        if record is not None:
            self._found.extend(self._events_of(record))
        if self._changed.get(delivery.subject) is delivery:
            del self._changed[delivery.subject]
        self.position.reach(delivery.stored_at)

    async def _record(self, key: TaskKey, revision: int = 0) -> Record | None:
        """Read an entry at this revision or later; None where there is none that can be read."""
        while True:
            try:
                found = await self._ledger.read_newer(key, revision - 1, timeout_s=self._bus.lag_s)
            except CorruptEntryError:
                return None
            except PermissionDeniedError:
                return None
            except BusError:  # away: it goes on where it is
                await anyio.sleep(_RETRY_S)
            else:
                return found if isinstance(found, Record) else None

    def _events_of(self, record: Record) -> list[TaskEvent]:
        entry, key = record.entry, record.key
        if entry.terminal:
            answered = entry.answered_by or (record.summary.answered_by if record.summary else None)
            if entry.state == "needs_approval" and answered:
                return []
            failure = TaskStatus(record, self._own).failure
            code = failure_word(failure.code) if failure is not None else None
            kind = "asks" if entry.state == "needs_approval" else "settled"
            return [TaskEvent(kind, self._own, key.agent, key, entry.state, record.changed_at, code)]
        return [
            TaskEvent("asks", self._own, key.agent, key, entry.state, record.changed_at, part=question.id)
            for question in asked_by(TaskStatus(record, self._own))
        ]

    # -- what no change shows -----------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look for lost workers and paused agents now and then, until this is cancelled."""
        await self._opened.wait()
        with suppress(BusError):
            await self._know_open_tasks()
        looks = 0
        while True:
            await anyio.sleep(LOOK_S)
            looks += 1
            try:
                await self._look_for_lost()
                await self._look_for_paused()
                if looks % _EXPIRY_LOOKS == 0:
                    await self._look_for_expired()
            except BusError as error:
                log.debug("tasks cannot be looked at now: %s", error)

    async def _know_open_tasks(self) -> None:
        """Learn which tasks are open by one search: it looks at the ledgers of all agents."""
        found: list[TaskStatus] = []
        wanted = Wanted(None, self._own, None, self._own, with_results=False, is_open=True)
        search = Search(self._bus, wanted, found.append, limit=_KNOWN_AT_FIRST, search_s=_KNOWN_S)
        await search.backwards(_KNOWN_AT_FIRST, None)
        mine = [(task.state, task.record.key) for task in found if self._of(task.record.key)]
        self._open.know(
            [key for state, key in mine if state == "working"], [key for state, key in mine if state == "queued"]
        )

    async def _look_for_lost(self) -> None:
        for key in self._open.silent(_SILENT_S, _READ_AT_A_LOOK):
            record = await self._record(key)
            if record is None or record.entry.state != "working" or record.entry.claim is None:
                self._open.is_over(key)
                continue
            silent_s = record.entry.claim.lease_s + _GRACE_S
            if key in self._open.silent(silent_s, _READ_AT_A_LOOK) and self._bus.seconds_since_reconnect > silent_s:
                self._find(TaskEvent("lost", self._own, key.agent, key, "working", record.changed_at,
                                     part=str(record.entry.attempt)))  # fmt: skip

    async def _look_for_paused(self) -> None:
        waiting = self._open.waiting_for() if self._sees_workers else Counter[str]()
        try:
            paused = await paused_among(self._bus, set(waiting)) if waiting else {}
        except PermissionDeniedError:  # the server logs each refusal
            self._sees_workers = False
            return
        for agent in self._paused - paused.keys():
            self.position.forget([TaskEvent("paused", self._own, agent, None, "queued", datetime.now(UTC)).id])
        self._paused = set(paused)
        for agent, worker in paused.items():
            code = pause_word(worker.code)
            self._find(TaskEvent("paused", self._own, agent, None, "queued", datetime.now(UTC), code,
                                 waiting=waiting[agent]))  # fmt: skip

    async def _look_for_expired(self) -> None:
        records = [record for key in self._open.queued(_READ_AT_A_LOOK) if (record := await self._record(key))]
        for record in records:
            if record.entry.terminal:
                self._open.is_over(record.key)
        await look_after(self._bus, records, asker=self._own)

    def _find(self, event: TaskEvent) -> None:
        if not self.position.has_told(event):
            self._found.append(event)
            self._news.set()


@asynccontextmanager
async def open_events(
    bus: Bus,
    own: str,
    position: Position | None = None,
    *,
    of: Callable[[TaskKey], bool] = lambda _: True,
) -> AsyncGenerator[OwnEvents]:
    """Follow the events of the tasks of a coordinator for the length of the block.

    Failures of the bus end nothing: they are logged once, and reading begins again where it was.

    Args:
        own: the coordinator that owns the tasks.
        position: where an earlier reader was; None to begin now.
        of: which of its tasks are meant; called often, so it must be quick.
    """
    events = OwnEvents(bus, own, position or Position(), of)
    async with raising_the_first(), anyio.create_task_group() as group:
        group.start_soon(events.follow)
        group.start_soon(events.look)
        try:
            yield events
        finally:
            group.cancel_scope.cancel()


async def _server_time(bus: Bus, subject: str) -> datetime:
    """Return the time of the server that keeps the ledger; that of this machine where there is none yet."""
    for part in await ledger_parts(bus, subject):
        with suppress(PermissionDeniedError):
            async with open_consumer(bus, part.stream, part.subject, after="new", headers_only=True) as consumer:
                if consumer.server_time is not None:
                    return consumer.server_time
    return datetime.now(UTC)
