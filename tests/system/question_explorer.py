"""An exhaustive explorer of questions: every interleaving of two workers and two people over one task that asks.

What a question, an answer and a denial make of the ledger entry is the product's own: `asking.entry_changes`,
`questions_of_entries`, `claimed`. A compare-and-set is tried again on what is there, so a change is applied to the
entry as it is; its answer may get lost, and then it is made once more. Modelled is what lies around it: claims, an
agent that asks one thing in each run, two people who saw the question at any time before and answer it in opposite
ways. Between any two steps a worker may die, a lease run out though its owner lives, a worker stop and release its
task, a question be late, a cancellation be requested.

A `Flaw` breaks one rule on purpose; the explorer must find what goes wrong then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

from agentbus.protocol.ledger_entry import CancelRequest, Claim, Entry, claimed, handed_back
from agentbus.protocol.questions.question import Answer, Question, digest_of
from agentbus.protocol.questions.question_ids import QuestionPart, part_of
from agentbus.protocol.questions.questions_of_entries import question_named, questions_of, with_answer
from agentbus.tasks.questions.describe import still_asked
from agentbus_worker.asking.entry_changes import Closing, Entering
from system.state_walk import Walk

_STAMP: Final = "2026-05-18T00:00:00+00:00"
_AGENT: Final = "agent-code"
_PEOPLE: Final = ("agent-anna", "agent-ben")
"""The first one approves, the second one denies."""


class Flaw(Enum):
    """Rules that can be broken."""

    NONE = "none"
    GIVES_FIRST = "an answer is given to the agent before the entry says so"
    ANY_OPERATION = "an answer is given to whatever the next attempt asks"
    OVERWRITES = "a second answer is written over the first one"
    DENIES_BY_ITSELF = "a question that is late is denied without a write"
    ASKS_ANEW = "a worker that took an answer forgets it where the answer of the bus to that was lost"


class Step(Enum):
    """Where a worker is."""

    DEAD = "dead"
    IDLE = "idle"
    ASK = "about to enter the question of its agent"
    OPEN = "waiting for an answer"
    GIVE = "about to give an answer to its agent"
    MARK = "about to note that it has given an answer"
    TOLD = "running on, its agent has got an answer"


class Origin(NamedTuple):
    """Where an answer comes from: to which question it was given, to which operation, and by which party."""

    part: str
    operation: str
    by: str


class Given(NamedTuple):
    """An answer as an agent got it: the agent of which claim, for which operation."""

    answer: Origin
    claim: int
    asked: str


class Worker(NamedTuple):
    """A worker: its claim, what its agent asks, and the answer that it is about to give."""

    step: Step = Step.IDLE
    claim: int = 0
    asks: str = ""
    answer: Origin | None = None


class Person(NamedTuple):
    """A person: the question that is on the screen, and what became of the answer."""

    sees: QuestionPart | None = None
    said: str = ""


class State(NamedTuple):
    """Everything there is. `entry` is a number of `Entries`, `missed` what a run that ended by itself has missed.

    `disturbed`: a run has ended in another way, or was to.
    """

    entry: int
    workers: tuple[Worker, Worker]
    people: tuple[Person, Person]
    given: tuple[Given, ...]
    claims: int
    crashes: int
    losses: int
    expiries: int
    releases: int
    cancels: int
    disturbed: bool = False
    missed: str = ""


@dataclass
class Report:
    """What an exploration found: a fault is what went wrong, and the path that leads to it."""

    states: int = 0
    faults: list[str] = field(default_factory=list[str])
    endings: set[str] = field(default_factory=set[str])


class Entries:
    """The ledger entries that were met, by numbers: a state is compared often, and an entry is large."""

    def __init__(self) -> None:
        self._numbers: dict[Entry, int] = {}
        self._entries: list[Entry] = []

    def number(self, entry: Entry) -> int:
        """The number of an entry."""
        found = self._numbers.setdefault(entry, len(self._entries))
        if found == len(self._entries):
            self._entries.append(entry)
        return found

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number]


@cache
def question_of(claim: int, asks: str) -> Question:
    """What the run of a claim asks."""
    return Question(
        number=1, nonce=f"n{claim}", operation=asks, arguments_digest=digest_of(asks), asked_at=_STAMP, until=_STAMP
    )


def answer_to(question: Question, by: str) -> Answer:
    """The answer of a party; its comment says to which question it was given."""
    return Answer(allow=by == _PEOPLE[0], by=by, comment=f"{part_of(question)} {question.operation}", at=_STAMP)


def origin_of(answer: Answer) -> Origin:
    """Where an answer comes from."""
    part, _, operation = answer.comment.partition(" ")
    return Origin(part, operation, answer.by)


class QuestionExplorer:
    """Walks all states that can be reached."""

    def __init__(
        self,
        flaw: Flaw = Flaw.NONE,
        *,
        crashes: int = 1,
        losses: int = 1,
        expiries: int = 0,
        releases: int = 0,
        cancels: int = 0,
    ) -> None:
        """Take the faults that may happen, each so many times."""
        self._flaw = flaw
        self._entries = Entries()
        entry = Entry(state="queued", digest="d", sender="agent-main", inbox="main", task_type="t")
        self._start = State(
            self._entries.number(entry), (Worker(), Worker()), (Person(), Person()), (), 0,
            crashes, losses, expiries, releases, cancels,
        )  # fmt: skip
        self._report = Report()
        self._changes = cache(self._change)

    def explore(self) -> Report:
        """Visit every state, until there is a fault."""
        walk, report, goals = Walk(self._start), self._report, list[State]()
        for state in walk.states(self._canonical_steps):
            if (fault := self._fault(state)) is not None:
                report.faults.append(f"{walk.path(state)}\n=> {fault}")
                break
            if self._entries[state.entry].terminal:
                goals.append(state)
        report.states = len(walk)
        if not report.faults and (stuck := walk.without_way_to(goals)) is not None:
            report.faults.append(f"{walk.path(stuck)}\n=> nothing leads to an end")
        return report

    def _canonical_steps(self, state: State) -> Iterator[tuple[str, State]]:
        for label, following in self._steps(state):
            one, two = following.workers
            swapped = (two, one) if _order(two) < _order(one) else (one, two)
            yield label, following._replace(workers=swapped)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def _fault(self, state: State) -> str | None:
        if len({one.answer for one in state.given}) < len(state.given):
            return "an answer was given twice"
        if any(one.answer.operation != one.asked for one in state.given):
            return "an answer was given to another operation"
        stored = [
            (person.sees, by) for person, by in zip(state.people, _PEOPLE, strict=True) if person.said == "stored"
        ]
        if len({part for part, _ in stored}) < len(stored):
            return "two people were told that their answer counts"
        for part, by in stored:
            if any(one.answer.part == str(part) and one.answer.by != by for one in state.given):
                return "an agent got another answer than the one that counts"
        return state.missed or None

    def _missed(self, state: State, worker: Worker) -> str:
        """What a run that ends by itself has missed."""
        mine = [one.answer for one in state.given if one.claim == worker.claim]
        for question in questions_of(self._entries[state.entry]):
            answer, is_marked = question.answer, question.given == f"n{worker.claim}"
            if answer is not None and is_marked and origin_of(answer) not in mine:
                return "an answer that the entry says was given never was"
        for person, by in zip(state.people, _PEOPLE, strict=True):
            known = any((one.part, one.by) == (str(person.sees), by) for one in mine)
            if person.said == "stored" and not known and not state.disturbed:
                return "an answer that counts was given to no agent"
        return ""

    # -- what can happen next ------------------------------------------------------------------------------------------

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        entry = self._entries[state.entry]
        for index, worker in enumerate(state.workers):
            for label, following in self._worker_steps(state, entry, index, worker):
                yield f"worker {index} {label}", following
            if worker.step is not Step.DEAD and state.crashes:
                died = _with(state, index, Worker(Step.DEAD))._replace(crashes=state.crashes - 1, disturbed=True)
                yield f"worker {index} dies", died
        for index in (0, 1):
            for label, following in self._person_steps(state, entry, index):
                yield f"{_PEOPLE[index]} {label}", following
        if state.cancels and not entry.terminal and entry.cancel is None:
            request = entry.model_copy(update={"cancel": CancelRequest(by="agent-main", at=_STAMP)})
            yield "a cancel request", self._wrote(state, request)._replace(cancels=state.cancels - 1, disturbed=True)

    def _person_steps(self, state: State, entry: Entry, index: int) -> Iterator[tuple[str, State]]:
        person, by = state.people[index], _PEOPLE[index]
        if person.said:
            return
        if person.sees is None:
            for question in still_asked(entry):
                yield f"sees {part_of(question)}", _who(state, index, Person(part_of(question)))
            return
        question = question_named(entry, person.sees)
        if entry.terminal or entry.cancel is not None or question is None:
            yield "is told that this is not asked any more", _who(state, index, person._replace(said="refused"))
            return
        wanted = answer_to(question, by)
        if question.answer is not None and self._flaw is not Flaw.OVERWRITES:
            said = "stored" if question.answer == wanted else "refused"
            yield f"is told: {said}", _who(state, index, person._replace(said=said))
            return
        after = self._wrote(state, with_answer(entry, question, wanted, given=question.given))
        yield "answers", _who(after, index, person._replace(said="stored"))
        if state.losses:
            yield "answers, which gets lost on its way back", after._replace(losses=state.losses - 1)

    def _worker_steps(self, state: State, entry: Entry, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        if worker.step is Step.DEAD:
            yield "starts", _with(state, index, Worker())
            return
        if worker.step is Step.IDLE:
            yield from self._idle(state, entry, index)
            return
        if worker.step is Step.GIVE:
            yield from self._gives(state, index, worker)
            return
        if entry.terminal or entry.claim is None or entry.claim.nonce != f"n{worker.claim}" or entry.state != "working":
            yield "has lost its claim", _with(state, index, Worker())
            return
        if entry.cancel is not None:
            yield "ends the run", self._settled(state, entry, index, "cancelled")
        match worker.step:
            case Step.ASK | Step.MARK | Step.OPEN:
                yield from self._writes(state, index, worker, late=False)
                if worker.step is Step.OPEN:
                    yield from self._is_late(state, index, worker)
                    if state.releases:
                        back = self._wrote(state, handed_back(entry))
                        back = back._replace(releases=state.releases - 1, disturbed=True)
                        yield "stops", _with(back, index, Worker())
            case _:
                ended = self._settled(state, entry, index, "completed")
                yield "ends", ended._replace(missed=self._missed(state, worker))

    def _idle(self, state: State, entry: Entry, index: int) -> Iterator[tuple[str, State]]:
        if entry.terminal:
            return
        left = state.expiries
        if entry.state == "working":
            alive = any(one.claim == state.claims and one.step is not Step.DEAD for one in state.workers)
            if alive and not left:
                return
            left -= alive
        if entry.cancel is not None:
            yield "gets a cancelled task", self._settled(state, entry, index, "cancelled")
            return
        number = state.claims + 1
        claim = Claim(worker="w", nonce=f"n{number}", lease_s=30, since=_STAMP)
        after = self._wrote(state, claimed(entry, claim, number))._replace(claims=number, expiries=left)
        after = after._replace(disturbed=state.disturbed or left != state.expiries)
        for asks in ("a", "b") if number > 1 else ("a",):
            yield f"claims the task, its agent asks for {asks}", _with(after, index, Worker(Step.ASK, number, asks))

    def _is_late(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        if self._flaw is Flaw.DENIES_BY_ITSELF:
            denied = origin_of(answer_to(question_of(worker.claim, worker.asks), _AGENT))
            yield "denies by itself", _with(state, index, worker._replace(step=Step.GIVE, answer=denied))
        else:
            yield from self._writes(state, index, worker, late=True)

    def _writes(self, state: State, index: int, worker: Worker, *, late: bool) -> Iterator[tuple[str, State]]:
        """Change the entry for a question; without an answer in it there is nothing to do for one that is open."""
        changed, answer = self._changes(state.entry, worker.step, worker.claim, worker.asks, late)
        if worker.step is Step.OPEN and answer is None:
            return
        label = "is late" if late else "enters its question" if worker.step is Step.ASK else "takes the answer"
        after = state._replace(entry=changed)
        if worker.step is Step.MARK:
            yield "notes what it gave", _with(after, index, worker._replace(step=Step.TOLD))
            return
        if answer is not None and self._flaw is Flaw.GIVES_FIRST:
            yield f"{label}, and gives it first", _with(state, index, worker._replace(step=Step.GIVE, answer=answer))
            return
        following = Step.OPEN if answer is None else Step.GIVE
        yield label, _with(after, index, worker._replace(step=following, answer=answer))
        if state.losses and changed != state.entry:
            yield f"{label}, the answer of the bus gets lost", after._replace(losses=state.losses - 1)

    def _change(self, number: int, step: Step, claim: int, asks: str, late: bool) -> tuple[int, Origin | None]:
        """What the worker's own changes make of an entry, and the answer that it finds in it."""
        entry, question = self._entries[number], question_of(claim, asks)
        if step is Step.ASK:
            kept = [one for one in questions_of(entry) if one.nonce != question.nonce and one.answer is not None]
            if self._flaw is Flaw.ANY_OPERATION and kept:
                question = question.model_copy(
                    update={"operation": kept[0].operation, "arguments_digest": kept[0].arguments_digest}
                )
            entering = Entering(question)
            changed, answer = entering.change(entry), entering.earlier
            if self._flaw is Flaw.ASKS_ANEW and answer is not None:
                others = tuple(one for one in questions_of(changed) if one.nonce != question.nonce)
                changed = changed.model_copy(update={"questions": others})
        else:
            closing = Closing(question, answer_to(question, _AGENT) if late else None)
            changed, answer = closing.change(entry), closing.answer
        return self._entries.number(changed), None if answer is None else origin_of(answer)

    def _gives(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        assert worker.answer is not None, "there is an answer"
        part, _, by = worker.answer
        given = tuple(sorted((*state.given, Given(worker.answer, worker.claim, worker.asks))))
        step = Step.MARK if self._flaw is Flaw.GIVES_FIRST else Step.TOLD
        self._report.endings.add("kept for the next attempt" if part != f"n{worker.claim}-1" else "given")
        self._report.endings.add("late" if by == _AGENT else "approved" if by == _PEOPLE[0] else "denied")
        yield "gives the answer", _with(state._replace(given=given), index, worker._replace(step=step))

    def _settled(self, state: State, entry: Entry, index: int, status: str) -> State:
        self._report.endings.add(status)
        # The result itself is no matter here: the other explorer has it. All settled entries are one.
        over = entry.model_copy(
            update={"state": status, "questions": None, "claim": None, "attempt": 0, "cancel": None}
        )
        return _with(self._wrote(state, over), index, Worker())

    def _wrote(self, state: State, entry: Entry) -> State:
        return state._replace(entry=self._entries.number(entry))


def _order(worker: Worker) -> tuple[str, int, str, str]:
    return worker.step.value, worker.claim, worker.asks, str(worker.answer)


def _with(state: State, index: int, worker: Worker) -> State:
    workers = (worker, state.workers[1]) if index == 0 else (state.workers[0], worker)
    return state._replace(workers=workers)


def _who(state: State, index: int, person: Person) -> State:
    people = (person, state.people[1]) if index == 0 else (state.people[0], person)
    return state._replace(people=people)
