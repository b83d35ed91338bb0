"""The questions among the last changes, for one who looks again and again, such as an overview.

A look finds what runs and what changed last. What has asked for long is behind that, so a task that asked once is read
by its key until it does not ask any more.
"""

from collections.abc import Sequence
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import concurrently
from agentbus.errors import BusError, CorruptEntryError
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.find import READS_AT_ONCE
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.questions.asked import AskedQuestion
from agentbus.tasks.questions.question_list import unanswered
from agentbus.tasks.status import TaskStatus

MOST_ASKING: Final = 20
"""Of how many tasks questions are read at a look: a person has enough to do with those, and a list has all."""


class OpenQuestions:
    """What was found so far of the questions that wait for a person."""

    def __init__(self, bus: Bus, asker: str) -> None:
        self._bus = bus
        self._asker = asker
        self._asking: list[TaskKey] = []

    async def among(self, met: Sequence[TaskStatus]) -> list[AskedQuestion]:
        """Return the questions of the tasks that a look has met, and of those that an earlier one had."""
        asking = [one for one in met if asks(one)][:MOST_ASKING]
        known = {one.record.key for one in met}
        earlier = [key for key in self._asking if key not in known][: MOST_ASKING - len(asking)]
        again = await concurrently(earlier, self._read, at_once=READS_AT_ONCE)
        asking += [one for one in again if one is not None and asks(one)]
        found = [question for questions in await unanswered(self._bus, asking) for question in questions]
        self._asking = [*dict.fromkeys(question.status.record.key for question in found)]
        return found

    async def _read(self, key: TaskKey) -> TaskStatus | None:
        try:
            record = await Ledger(self._bus).read(key)
        except (CorruptEntryError, BusError):
            return None
        return TaskStatus(record, self._asker) if isinstance(record, Record) else None


def asks(status: TaskStatus) -> bool:
    """Whether a task asks a person, as far as its entry says: its run, or that it has ended with a request."""
    return status.asks or (status.state == "needs_approval" and status.record.entry.answered_by is None)
