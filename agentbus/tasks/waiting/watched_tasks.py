"""The tasks that a wait is for: what is known of each, and whether that is enough."""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import concurrently
from agentbus.errors import CorruptEntryError
from agentbus.protocol import subjects
from agentbus.protocol.headers import QUESTIONS, STATE, Headers
from agentbus.protocol.ledger_entry import Record, read_entry
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.task_names import short_names
from agentbus.tasks.find import READS_AT_ONCE, Found, find_newer
from agentbus.tasks.lost.lost_tasks import look_after
from agentbus.tasks.questions.asked import asked_by
from agentbus.tasks.status import Loss, TaskStatus, Waited
from agentbus.tasks.waiting.listeners import Listeners

Until: TypeAlias = Literal["all", "any"]

_RUNNING: Final = "working"


class WatchedTasks:
    """The entries of tasks as they were read last, and those that cannot be read now.

    What one change costs does not depend on how many tasks there are.

    Args:
        asker: the coordinator that waits.
        listeners: `on_paused` is not called here.
    """

    def __init__(self, found: Found, asker: str, until: Until, listeners: Listeners) -> None:
        self._records = dict(found)
        self._asker = asker
        self._until: Until = until
        self._on_change = listeners.on_change
        self._on_question = listeners.on_question
        self._asked: set[str] = set()  # the ids of the questions that were told
        self._ended_by_question = False
        self._open = {key for key, record in found.items() if not _settled(record)}
        self._unreadable: dict[TaskKey, CorruptEntryError] = {}
        self._losses: dict[TaskKey, Loss | None] = {}
        self._unparsed: dict[TaskKey, StoredMessage] = {}  # newer than the record, and not at its end
        self._unread: dict[TaskKey, int] = {}  # the same, where only the revision is known
        for record in found.values():
            self._tell_questions(record)

    def __contains__(self, key: object) -> bool:
        return key in self._records

    @property
    def enough(self) -> bool:
        """Whether the wait is over. Only the party that wrote an unreadable entry knows whether it will ever change."""
        if self._ended_by_question:
            return True
        settled = len(self._records) - len(self._open) - len(self._unreadable)
        return not self._open or (self._until == "any" and settled > 0)

    def unsettled(self) -> list[TaskKey]:
        """Return the tasks that are not at their end, as far as is known."""
        return [*self._open, *self._unreadable]

    def is_settled(self, key: TaskKey) -> bool:
        """Whether a task is at its end."""
        return key not in self._open and key not in self._unreadable

    def queued_for(self) -> set[str]:
        """Return the agents of the tasks that wait for a worker."""
        return {record.agent for record in self.unsettled_records() if record.entry.state == "queued"}

    def unsettled_records(self) -> list[Record]:
        """Return the entries of the tasks that are not at their end, as they were read last."""
        self._parse_all()
        return [self._records[key] for key in self._open]

    def take(self, message: StoredMessage) -> None:
        """Take an entry as its stream delivers it. That a task is running is not read unless it is reported."""
        key = subjects.parse_state(message.subject)
        if key is None or key not in self._records or message.seq <= self._records[key].revision:
            return
        if key in self._open and self._is_no_news(message.headers):
            self._unparsed[key] = message
        else:
            self._parse(key, message)

    async def take_changes(self, bus: Bus, changes: Iterable[tuple[str, Headers, int]]) -> None:
        """Read the entries that have changed, several at a time.

        Args:
            changes: the subject, the headers and the revision of each; of one task, the last counts.
        """
        newest: dict[TaskKey, int] = {}
        for subject, headers, revision in changes:
            key = subjects.parse_state(subject)
            if key is None or key not in self._records or revision <= self._records[key].revision:
                continue
            if key in self._open and self._is_no_news(headers):
                self._unread[key] = revision
            else:
                newest[key] = revision
        await self._read(bus, newest)

    async def read_again(self, bus: Bus, keys: Iterable[TaskKey] | None = None) -> None:
        """Read entries that are not at their end, whether or not they have changed: of these tasks, or of all."""
        wanted = self.unsettled() if keys is None else [key for key in keys if not self.is_settled(key)]
        await self._read(bus, dict.fromkeys(wanted, 0))

    async def read_unread(self, bus: Bus) -> None:
        """Read what is known to have changed, and was not read so far."""
        await self._read(bus, dict(self._unread))

    async def look_after(self, bus: Bus, records: Iterable[Record]) -> None:
        """Settle the tasks among `records` that can no longer run, and learn which are lost."""
        for status in await look_after(bus, records):
            if status.record.revision > self._records[status.record.key].revision:
                self._set(status.record)
            if not self.is_settled(status.record.key):
                self._losses[status.record.key] = status.loss

    def outcome(self, *, current: bool) -> Waited:
        """What came of the tasks: by their ids, and by their names where several have the same id."""
        self._parse_all()
        names = short_names(self._asker, self._records)
        statuses = {name: self._status(key) for key, name in names.items()}
        return Waited(
            settled={name: status for name, status in statuses.items() if status.settled},
            pending={name: status for name, status in statuses.items() if not status.settled},
            current=current,
            unreadable={names[key]: error for key, error in self._unreadable.items()},
        )

    def _is_no_news(self, headers: Headers) -> bool:
        """Whether an entry has to be read for no one: its task goes on, and asks nothing that has to be told.

        What an older worker writes says nothing of questions; those that it kept were told when they were asked.
        """
        is_asked = self._on_question is not None and QUESTIONS in headers
        return self._on_change is None and headers.get(STATE) == _RUNNING and not is_asked

    async def _read(self, bus: Bus, wanted: dict[TaskKey, int]) -> None:
        async def one(key: TaskKey) -> None:
            try:
                record = await find_newer(bus, self._records[key], wanted[key])
            except CorruptEntryError as error:
                self._set_unreadable(key, error)
            else:
                if record.revision >= self._records[key].revision:  # a replica that lags behind may answer
                    self._set(record)

        await concurrently(wanted, one, at_once=READS_AT_ONCE)

    def _parse_all(self) -> None:
        for key, message in tuple(self._unparsed.items()):
            self._parse(key, message)

    def _parse(self, key: TaskKey, message: StoredMessage) -> None:
        try:
            record = read_entry(message)
        except CorruptEntryError as error:
            self._set_unreadable(key, error)
        else:
            if isinstance(record, Record):
                self._set(record)

    def _set(self, record: Record) -> None:
        key, before = record.key, self._records[record.key]
        self._records[key] = record
        self._unreadable.pop(key, None)
        self._unread.pop(key, None)
        if (newer := self._unparsed.get(key)) is not None and newer.seq <= record.revision:
            del self._unparsed[key]
        if _settled(record):
            self._open.discard(key)
            self._losses.pop(key, None)
        else:
            self._open.add(key)
        if self._on_change is not None and record.revision != before.revision:
            self._on_change(self._status(key))
        self._tell_questions(record)

    def _tell_questions(self, record: Record) -> None:
        if self._on_question is None or not record.entry.questions:
            return
        for question in asked_by(TaskStatus(record, self._asker)):
            if question.id not in self._asked:
                self._asked.add(question.id)
                self._ended_by_question = bool(self._on_question(question)) or self._ended_by_question

    def _set_unreadable(self, key: TaskKey, error: CorruptEntryError) -> None:
        self._unreadable[key] = error
        self._open.discard(key)
        self._unparsed.pop(key, None)
        self._unread.pop(key, None)

    def _status(self, key: TaskKey) -> TaskStatus:
        return TaskStatus(self._records[key], self._asker, self._losses.get(key))


def _settled(record: Record) -> bool:
    return TaskStatus(record).settled
