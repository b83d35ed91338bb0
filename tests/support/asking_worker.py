"""A worker in a test's own hands: claims tasks, asks, renews and settles by compare-and-set, as a real one does."""

from dataclasses import dataclass
from typing import Any

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus
from agentbus.errors import WrongRevisionError
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import Claim, Entry, Record, claimed, renewed
from agentbus.protocol.questions.question import Answer, Question, digest_of
from agentbus.protocol.questions.question_ids import question_id
from agentbus.protocol.questions.questions_of_entries import questions_of, with_question
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.task_names import name_for
from agentbus.tasks.ledger import Ledger
from support.harness import eventually

ASKED_AT, UNTIL = "2026-11-30T10:00:00+00:00", "2026-11-30T11:00:00+00:00"


@dataclass(frozen=True)
class Run:
    """The claim of one task."""

    bus: Bus
    key: TaskKey
    nonce: str

    def question(self, operation: str = "Bash", arguments: Json = None, text: str = "", number: int = 0) -> Question:
        return Question(
            number=number or 1,
            nonce=self.nonce,
            operation=operation,
            arguments=arguments,
            arguments_digest=digest_of(arguments),
            folder="/srv/shop",
            text=text,
            asked_at=ASKED_AT,
            until=UNTIL,
        )

    async def ask(self, operation: str = "Bash", arguments: Json = None, text: str = "May I?") -> str:
        """Ask; returns the id of the question, as `main` names it."""
        while True:
            record = await self.record()
            number = 1 + sum(one.nonce == self.nonce for one in questions_of(record.entry))
            question = self.question(operation, arguments, text, number)
            entry = with_question(record.entry, question)
            assert entry is not None
            if await self._written(entry, record):
                return question_id(name_for("main", self.key), question)

    async def renew(self, **claim: float) -> None:
        """Renew the claim; `claim` changes fields of it."""
        while True:
            record = await self.record()
            entry = renewed(record.entry)
            assert entry.claim is not None
            changed = entry.model_copy(update={"claim": entry.claim.model_copy(update=claim)})
            if await self._written(changed, record):
                return

    async def lose(self, **changes: float) -> None:
        """Have another worker take the task over, as after a lease that has run out."""
        record, other = await self.record(), _claim(random_token()).model_copy(update=changes)
        assert await self._written(claimed(record.entry, other, record.entry.attempt + 1), record)

    async def hand_back(self) -> None:
        """Put the task back into the queue, as when a worker ends."""
        record = await self.record()
        assert await self._written(record.entry.model_copy(update={"state": "queued"}), record)

    async def record(self) -> Record:
        found = await Ledger(self.bus).read(self.key)
        assert isinstance(found, Record)
        return found

    async def questions(self) -> tuple[Question, ...]:
        return questions_of((await self.record()).entry)

    async def answer(self) -> Answer:
        """Wait for the answer to the last question."""

        async def given() -> Answer | None:
            return (await self.questions())[-1].answer

        return await eventually(given, f"an answer to {self.key}")

    async def _written(self, entry: Entry, record: Record) -> bool:
        try:
            await Ledger(self.bus).write(self.key, entry, revision=record.revision)
        except WrongRevisionError:
            return False
        return True


def _claim(nonce: str) -> Claim:
    return Claim(worker="machine-1", nonce=nonce, lease_s=30, since=ASKED_AT)


async def claim(bus: Coordinator, task_id: str, *, agent: str = "code", owner: str = "main") -> Run:
    """Claim a task that lies on the bus."""
    run = Run(bus.bus, TaskKey(agent, task_id, owner), random_token())
    record = await run.record()
    entry = claimed(record.entry, _claim(run.nonce), record.entry.attempt + 1)
    await Ledger(bus.bus).write(run.key, entry, revision=record.revision)
    return run


async def asking(bus: Coordinator, task_id: str, *questions: Json, agent: str = "code", **more: Any) -> Run:
    """Publish a task, claim it, and ask about each of some commands."""
    owner = more.pop("owner", bus.agent)
    await bus.publish(agent, "work", task_type="test", task_id=task_id, **more)
    run = await claim(bus, task_id, agent=agent, owner=owner)
    for arguments in questions:
        await run.ask("Bash", {"command": arguments})
    return run
