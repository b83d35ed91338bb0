"""Puts the questions of a run to people: into the ledger entry of its task, and their answers to the agent.

Each step is a compare-and-set under the claim. Before an answer is given to the agent, the entry says to which claim:
so it is given once, whatever dies when, and never to another question.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, Literal

from agentbus.errors import BusError, LeaseLostError, TooLargeError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.questions import question as protocol
from agentbus.protocol.questions.question_ids import part_of
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus_worker.asking.answer_pipe import AnswerPipe
from agentbus_worker.asking.entry_changes import Closing, Entering, answer_in
from agentbus_worker.asking.question_fields import question_from
from agentbus_worker.formats.events import Event, Notice, Question, QuestionEnd, Start
from agentbus_worker.formats.stream import EventStream
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.progress.run_progress import RunProgress
from agentbus_worker.running.command import Child
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.lease import Lease

_RETRY_S: Final = 1.0
"""The pause after a write that the bus has not taken."""


def telling_and_asking(
    context: Context, key: TaskKey, lease: Lease, child: Child, pipe: AnswerPipe | None
) -> AbstractAsyncContextManager[RunProgress]:
    """Tell what a run does, and put its questions to people, for the length of the block.

    Args:
        pipe: what takes the answers; None where nothing is asked.
    """
    telling = context.progress.of_run(key, lease.entry.attempt, child)
    if pipe is None or (events := child.events) is None:
        return telling
    return _asking(telling, lambda: RunQuestions(context, key, lease, events, pipe))


@asynccontextmanager
async def _asking(telling: RunProgress, begin: Callable[[], "RunQuestions"]) -> AsyncGenerator[RunProgress]:
    async with telling:
        run = begin()
        try:
            yield telling
        finally:
            await run.close()


class RunQuestions:
    """The questions of one run."""

    def __init__(self, context: Context, key: TaskKey, lease: Lease, events: EventStream, pipe: AnswerPipe) -> None:
        self._context = context
        self._lease = lease
        self._events = events
        self._pipe = pipe
        self._log = TaskLog(key.id, **key.owner_field)
        self._open: dict[str, _Open] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._over = asyncio.Event()
        claim = lease.entry.claim
        assert claim is not None, "a run has a claim"
        self._nonce = claim.nonce
        events.listen(self._on_event)
        lease.on_change = self._on_entry

    async def close(self) -> None:
        """Ask nothing any more, because the run has ended; a write that has begun comes to its end."""
        self._over.set()
        self._lease.on_change = lambda _: None
        for one in self._open.values():
            one.stirred.set()
        if self._asking:
            await asyncio.gather(*self._asking)
        self._context.waiting.leave(self)

    def _on_event(self, event: Event) -> None:
        match event:
            case Start():
                self._pipe.hide()
            case Question() if event.id and event.id not in self._open and not self._over.is_set():
                self._begin(event)
            case QuestionEnd() if (one := self._open.get(event.id)) is not None:
                one.ended = "withdrawn" if event.withdrawn else "late"
                one.stirred.set()
            case _:
                pass

    def _on_entry(self, entry: Entry) -> None:
        for one in self._open.values():
            if one.question is not None and answer_in(entry, one.question) is not None:
                one.stirred.set()

    def _begin(self, asked: Question) -> None:
        context, most = self._context, self._context.config.most_open_questions
        if not context.waiting.enter(self, self._lease.interrupt, most):
            self._deny(asked, f"{most} other tasks wait for a person here, and no more may: open_questions")
            return
        if context.waiting.stopping:
            return
        self._asked += 1
        self._open[asked.id] = one = _Open(asked, self._asked)
        context.waiting.questions += 1
        task = asyncio.create_task(self._ask(one))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, one: "_Open") -> None:
        try:
            if (answer := await self._answer_to(one)) is not None:
                self._give(one, answer)
        finally:
            del self._open[one.asked.id]
            self._context.waiting.questions -= 1
            if not self._open:
                self._context.waiting.leave(self)

    async def _answer_to(self, one: "_Open") -> protocol.Answer | None:
        """Return what the agent is to be told, once the entry says so; None if it is not to be told anything."""
        wait_s = self._context.config.question_wait_s
        until = asyncio.get_running_loop().time() + wait_s
        question = one.question = question_from(
            one.asked,
            number=one.number,
            nonce=self._nonce,
            at=await self._context.lease_monitor.now(),
            wait_s=wait_s,
            redact=self._context.progress.redact,
        )
        entered = Entering(question)
        if not await self._written(entered.change, one):
            return None
        if entered.full:
            self._deny(one.asked, f"{protocol.MAX_QUESTIONS} questions of this task wait already")
            return None
        if entered.earlier is not None:
            return entered.earlier
        self._log.info("asks a person", question=str(part_of(question)))
        while True:
            late = not await one.stirs(until) or one.ended == "late"
            if self._over.is_set() or one.ended == "withdrawn":
                return None
            closing = Closing(question, self._denial(f"nothing was answered within {wait_s:g} s") if late else None)
            if not await self._written(closing.change, one):
                return None
            if closing.answer is not None:
                return closing.answer if one.ended is None else None

    def _denial(self, why: str) -> protocol.Answer:
        return protocol.Answer(allow=False, comment=why, by=subjects.address(self._context.agent), at=now())

    def _give(self, one: "_Open", answer: protocol.Answer) -> None:
        if self._over.is_set() or one.ended is not None:
            self._log.info("an answer came too late for its agent")
            return
        # A denial of the worker itself says nothing that an agent could keep to.
        comment = "" if answer.by == subjects.address(self._context.agent) else answer.comment
        self._pipe.give(one.asked.id, allow=answer.allow, comment=comment)
        done = "allowed" if answer.allow else "denied"
        self._log.info(f"a question was answered: {done}", by=answer.by)
        words = f": {answer.comment}" if answer.comment else ""
        self._events.tell(Notice(f"{done} by {answer.by}: {one.asked.tool}{words}"))

    def _deny(self, asked: Question, why: str) -> None:
        """Deny what no person is asked."""
        self._pipe.give(asked.id, allow=False)
        self._log.warning("a question was denied: %s", why)
        self._events.tell(Notice(f"denied: {asked.tool}: {why}"))

    async def _written(self, change: Callable[[Entry], Entry], one: "_Open") -> bool:
        """Change the entry, and try on while the bus does not take it; returns False if that is over."""
        while not self._over.is_set() and one.ended != "withdrawn":
            try:
                await self._lease.update(change)
            except LeaseLostError:
                return False
            except TooLargeError as error:
                self._deny(one.asked, str(error))
                return False
            except BusError as error:
                self._log.debug("a question could not be written: %s", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_S):
                        await self._over.wait()
            else:
                return True
        return False


class _Open:
    """A question that has been asked, and not answered yet.

    Attributes:
        stirred: set when there may be something to do: an answer, or its end.
        ended: why the driver waits no more: it is `withdrawn`, as the run ends, or it is too `late`.
    """

    def __init__(self, asked: Question, number: int) -> None:
        self.asked = asked
        self.number = number
        self.question: protocol.Question | None = None
        self.stirred = asyncio.Event()
        self.ended: Literal["withdrawn", "late"] | None = None

    async def stirs(self, until: float) -> bool:
        """Wait until something has happened; returns False if it is time to deny the question."""
        try:
            async with asyncio.timeout_at(until):
                await self.stirred.wait()
        except TimeoutError:
            return False
        self.stirred.clear()
        return True
