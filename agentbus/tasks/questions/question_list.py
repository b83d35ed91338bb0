"""Lists the questions that wait for a person: those of runs that go on or were interrupted, and tasks that ended so.

Nothing keeps an index. A running task is renewed every few seconds, so it is among the last changes. The others are
found by the search for a rare state; headers say which entries ask, so that no other one is read. A task that ended as
`needs_approval` is answered by another task, whose entry is newer and so was met before.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.backwards import Read
from agentbus.bus.retry_until import deadline_after, left_until
from agentbus.concurrently import concurrently
from agentbus.errors import CorruptEntryError, MessageError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, GROUP, QUESTIONS, STATE, Headers
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record
from agentbus.tasks.approvals import ANSWER_SUFFIX, answer_key
from agentbus.tasks.find import READS_AT_ONCE
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.listing.task_list import MAX_LISTED, SEARCH_S, Search, TaskList
from agentbus.tasks.listing.wanted import Wanted
from agentbus.tasks.questions.asked import AskedQuestion, QuestionList, asked_by
from agentbus.tasks.questions.describe import still_asked
from agentbus.tasks.status import TaskStatus

_SCAN_FIRST: Final = 500
"""How many entries the search looks at first, at least: all running tasks of most buses."""


@dataclass(frozen=True, slots=True)
class _Asking(Wanted):
    """The tasks that ask, as far as headers and entries say.

    Attributes:
        answers: the tasks that answer others, as they were met.
    """

    answers: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    @classmethod
    def among(cls, wanted: Wanted) -> Self:
        """Return those that ask of the tasks that are wanted; what they ask is not known before it is read."""
        return cls(
            wanted.agent,
            wanted.owner,
            None,
            wanted.asker,
            with_results=False,
            group=wanted.group,
            task_type=wanted.task_type,
        )

    @property
    def is_search(self) -> bool:
        return True

    def may_be(self, entry: Read) -> bool:
        key = subjects.parse_state(entry.subject)
        if key is not None and key.id.endswith(ANSWER_SUFFIX):
            self.answers.add((key.agent, key.id))
        # What runs is read in any case: a worker of an earlier version that took a task over says nothing of questions.
        may_ask = entry.headers.get(STATE) in (None, "needs_approval", "working") or says_that_it_asks(entry.headers)
        return may_ask and Wanted.may_be(self, entry)

    def is_met_by(self, found: TaskStatus) -> bool:
        entry = found.record.entry
        if not Wanted.is_met_by(self, found):
            return False
        if not entry.terminal:
            return bool(still_asked(entry))
        return entry.state == "needs_approval" and (found.agent, found.task_id + ANSWER_SUFFIX) not in self.answers


def _with_text(asked: Sequence[list[AskedQuestion]], text: str | None) -> list[list[AskedQuestion]]:
    """Return the questions of each task that have a text, without the tasks of which none has it."""
    if text is None:
        return list(asked)
    kept = [[question for question in of_task if _has(question, text)] for of_task in asked]
    return [of_task for of_task in kept if of_task]


def _has(question: AskedQuestion, text: str) -> bool:
    """Whether a question has a text in its id, in the first words of its task, or in what it asks."""
    arguments = "" if question.arguments is None else encode(question.arguments).decode()
    parts = (question.id, question.status.about, question.operation, arguments, question.text)
    return text.casefold() in "\n".join(parts).casefold()


def says_that_it_asks(headers: Headers) -> bool:
    """Whether the headers of an unsettled entry say that there may be a question in it."""
    return QUESTIONS in headers or (headers.get(STATE) == "queued" and _given_back_by_an_earlier_version(headers))


def _given_back_by_an_earlier_version(headers: Headers) -> bool:
    """Whether an entry was written in place of another one by a party that knows neither groups nor questions.

    Such a worker that gives a task back keeps its questions in the entry, without a header.
    """
    return GROUP not in headers and headers.get(EXPECTED_LAST_SUBJECT_SEQUENCE, "0") != "0"


async def list_questions(
    bus: Bus,
    wanted: Wanted,
    *,
    limit: int = 50,
    cursor: int | None = None,
    search_s: float = SEARCH_S,
) -> QuestionList:
    """List what waits for a person.

    A task that changes between two calls moves to the front, as each running one does with every renewal of its lease:
    a call that continues from a cursor leaves it out.

    Args:
        wanted: of which tasks. Its text is looked for in what is asked as well.
        limit: of how many tasks, 1 to 200; each has at most 16 questions.
        cursor: the `cursor` of an earlier list.
        search_s: how long to search, about.

    Raises:
        MessageError: `limit` is out of bounds, or `cursor` is that of another bus.
        SetupMissingError: there is no ledger on this bus.
        PermissionDeniedError: this user may not read it.
    """
    if not 1 <= limit <= MAX_LISTED:
        raise MessageError(f"limit must be from 1 to {MAX_LISTED}, not {limit}")
    asking_tasks, deadline = _Asking.among(wanted), deadline_after(search_s)
    asking, unreadable, found = list[AskedQuestion](), list[str](), TaskList([])
    left = limit
    while True:
        tasks: list[TaskStatus] = []
        search = Search(bus, asking_tasks, tasks.append, limit=left, search_s=max(0.0, left_until(deadline)))
        found = await search.backwards(max(left + 1, _SCAN_FIRST), cursor)
        unreadable += found.unreadable
        cursor = found.cursor
        met = _with_text(await unanswered(bus, tasks), wanted.text)
        asking += [question for questions in met for question in questions]
        left -= len(met)
        if left <= 0 or cursor is None or found.partial or left_until(deadline) <= 0:
            break
    stopped = found.partial or (left > 0 and cursor is not None)
    return QuestionList(
        asking, cursor=cursor, partial=stopped, unreadable=unreadable, reached=found.reached, left=found.left
    )


async def unanswered(bus: Bus, tasks: Sequence[TaskStatus]) -> list[list[AskedQuestion]]:
    """Return what each of the tasks asks, without those that were answered."""

    async def one(task: TaskStatus) -> list[AskedQuestion]:
        if not task.record.entry.terminal:
            return asked_by(task)
        if await _is_answered(bus, task):
            return []
        return [AskedQuestion(whole)] if (whole := await _whole(bus, task)) is not None else []

    return [found for found in await concurrently(tasks, one, at_once=READS_AT_ONCE) if found]


async def _is_answered(bus: Bus, task: TaskStatus) -> bool:
    """Whether a task has the follow-up that answers it."""
    key = answer_key(task.record)
    if key is None:
        return False
    try:
        return isinstance(await Ledger(bus).read(key), Record)
    except PermissionDeniedError:  # a member cannot see the tasks of another one; the note of it has to do
        return task.record.entry.answered_by is not None
    except CorruptEntryError:
        return True


async def _whole(bus: Bus, task: TaskStatus) -> TaskStatus | None:
    """Read the result as well, which holds the request; None if it is gone."""
    with suppress(CorruptEntryError):
        record = await Ledger(bus).read(task.record.key)
        return TaskStatus(record, task.asker) if isinstance(record, Record) else None
    return None
