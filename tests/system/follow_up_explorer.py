"""An exhaustive explorer of follow-ups: three workers at two places, a task and two follow-ups in its session.

Where the session is, is the product's own decision (`conversations.routing.whereabouts`). Modelled is what carries it
out: deliveries that are handed back, the lock of a session, claims by compare-and-set, and the time that a follow-up
waits for a place without a living worker. Between any two steps a worker may die, with its command running on, a lease
run out though its owner lives, the first task be cancelled, and one place be gone for good.

A `Flaw` breaks one rule on purpose; the explorer must find what goes wrong then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

from agentbus.protocol.conversations.continuation import Continuation
from agentbus.protocol.ledger_entry import CancelRequest, Claim, Entry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.conversations.routing import Elsewhere, Gone, Here, NotYet, Whereabouts, whereabouts
from system.state_walk import Walk

_STAMP: Final = "2026-05-18T00:00:00+00:00"
_PLACES: Final = ("aaaaaaaaaaaaaaaa-aaaaaaaa", "bbbbbbbbbbbbbbbb-bbbbbbbb")
_FIRST: Final = 0
_FRESH: Final = 2
"""The follow-up that begins a new session where its own is gone; the other one fails then."""


class Flaw(Enum):
    """Rules that can be broken."""

    NONE = "none"
    CLAIMS_ANYWHERE = "a worker of another place runs a follow-up"
    NO_LOCK = "a session is taken up while another run is in it"
    LEAVES_COMMANDS = "a session is taken up while the command of a dead worker runs on in it"
    GIVES_UP_EARLY = "a follow-up fails while a worker of its place lives"
    NEVER_GIVES_UP = "a follow-up waits for its place for ever"
    DOES_NOT_WAIT = "a follow-up of a task that has no result yet fails"


class Step(Enum):
    """Where a worker is."""

    DEAD = "dead"
    IDLE = "idle"
    CLAIM = "about to claim"
    RUN = "running"


class Task(NamedTuple):
    """A task: its state, which claim has it, and how it has ended."""

    state: str = "queued"
    claim: int = 0
    how: str = ""


class Worker(NamedTuple):
    """A worker: of which place, what it does with which task, under which claim, and whether it is in the session."""

    place: int
    step: Step = Step.IDLE
    task: int = -1
    plan: str = ""
    claim: int = 0
    locks: bool = False


class State(NamedTuple):
    """Everything there is.

    `session` is the place of the session; None while there is none. `orphan` says that the command of a dead worker
    runs on in it. `gone` is the place that no worker comes back to.
    """

    tasks: tuple[Task, Task, Task] = (Task(), Task(), Task())
    workers: tuple[Worker, Worker, Worker] = (Worker(0), Worker(0), Worker(1))
    session: int | None = None
    orphan: bool = False
    cancelled: bool = False
    claims: int = 0
    crashes: int = 0
    expiries: int = 0
    cancels: int = 0
    removals: int = 0
    gone: int | None = None
    fault: str = ""


@dataclass
class Report:
    """What an exploration found: a fault is what went wrong, and the path that leads to it."""

    states: int = 0
    faults: list[str] = field(default_factory=list[str])
    endings: set[str] = field(default_factory=set[str])


@cache
def where(place: int, first: Task, session: int | None, cancelled: bool) -> Whereabouts:
    """The worker's own decision about a follow-up, by the entry of the first task."""
    result = None
    if first.state in ("completed", "cancelled"):
        run = {"run": {"format": "claude", "session": "s", "place": _PLACES[session]}} if session is not None else {}
        result = {"id": "r", "type": "task.result", "status": first.state, "task": {}, **run}
    entry = Entry(
        state=first.state,  # pyright: ignore[reportArgumentType]
        digest="d",
        sender="agent-main",
        inbox="main",
        task_type="t",
        claim=Claim(worker="w", nonce="n", lease_s=30, since=_STAMP) if first.state == "working" else None,
        cancel=CancelRequest(by="agent-main", at=_STAMP) if cancelled else None,
        result=result,
    )
    record = Record(TaskKey("code", "first"), entry, 1, datetime(2026, 5, 18, tzinfo=UTC))
    return whereabouts(Continuation(task="first", owner="main"), "main", _PLACES[place], record)


class FollowUpExplorer:
    """Walks all states that can be reached."""

    def __init__(
        self, flaw: Flaw = Flaw.NONE, *, crashes: int = 1, expiries: int = 0, cancels: int = 0, removals: int = 1
    ) -> None:
        """Take the faults that may happen, each so many times."""
        self._flaw = flaw
        self._start = State(crashes=crashes, expiries=expiries, cancels=cancels, removals=removals)

    def explore(self) -> Report:
        """Visit every state, until there is a fault."""
        walk, report, goals = Walk(self._start), Report(), list[State]()
        for state in walk.states(self._steps):
            if (fault := state.fault or _fault(state)) != "":
                report.faults.append(f"{walk.path(state)}\n=> {fault}")
                break
            if all(task.how for task in state.tasks):
                goals.append(state)
                report.endings |= {task.how for task in state.tasks}
        report.states = len(walk)
        if not report.faults and (stuck := walk.without_way_to(goals)) is not None:
            report.faults.append(f"{walk.path(stuck)}\n=> nothing leads to an end")
        return report

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        for index, worker in enumerate(state.workers):
            for label, following in self._worker_steps(state, index, worker):
                yield f"worker {index} {label}", following
            if worker.step is not Step.DEAD and state.crashes:
                yield f"worker {index} dies", _died(state, index, worker)._replace(crashes=state.crashes - 1)
        if state.orphan:
            yield "the command of a dead worker ends", state._replace(orphan=False)
        if state.cancels and state.tasks[_FIRST].how == "":
            yield "the first task is to be cancelled", state._replace(cancels=state.cancels - 1, cancelled=True)
        if state.removals:
            for place in (0, 1):
                after = state._replace(removals=0, gone=place)
                for index, worker in enumerate(state.workers):
                    if worker.place == place:
                        after = _died(after, index, worker)
                yield f"place {place} is gone for good", after._replace(orphan=state.orphan and state.session != place)

    def _worker_steps(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        match worker.step:
            case Step.DEAD:
                if worker.place != state.gone:
                    yield "starts", _with(state, index, Worker(worker.place))
            case Step.IDLE:
                for number, task in enumerate(state.tasks):
                    left = self._expiries_after(state, task)
                    if task.how == "" and left is not None:
                        yield from self._gets(state._replace(expiries=left), index, worker, number)
            case Step.CLAIM:
                yield from self._claims(state, index, worker)
            case Step.RUN:
                yield from self._ends(state, index, worker)

    def _expiries_after(self, state: State, task: Task) -> int | None:
        """How many leases of living owners may still run out once a task is taken; None if it cannot be."""
        alive = task.state == "working" and any(
            one.step is Step.RUN and one.claim == task.claim for one in state.workers
        )
        if not alive:
            return state.expiries
        return state.expiries - 1 if state.expiries else None

    def _gets(self, state: State, index: int, worker: Worker, number: int) -> Iterator[tuple[str, State]]:
        if number == _FIRST:
            yield (
                "gets the first task",
                _with(state, index, worker._replace(step=Step.CLAIM, task=number, plan="first")),
            )
            return
        found = where(worker.place, state.tasks[_FIRST], state.session, state.cancelled)
        label = f"gets follow-up {number}"
        if isinstance(found, Elsewhere) and self._flaw is Flaw.CLAIMS_ANYWHERE:
            found = Here("s")
        if isinstance(found, NotYet) and self._flaw is Flaw.DOES_NOT_WAIT:
            found = Gone("has no result")
        match found:
            case NotYet():
                return  # handed back
            case Elsewhere():
                alive = any(one.place == state.session and one.step is not Step.DEAD for one in state.workers)
                if (alive and self._flaw is not Flaw.GIVES_UP_EARLY) or self._flaw is Flaw.NEVER_GIVES_UP:
                    return  # handed back
                fault = "a follow-up gives up a place that lives" if alive else ""
                yield f"{label}, and has waited", self._decides(state, index, number, fault)
            case Gone():
                fault = "" if state.tasks[_FIRST].how else "a follow-up gives up a task that has no result yet"
                yield f"{label}, which has no session", self._decides(state, index, number, fault)
            case Here():
                if state.orphan and self._flaw is not Flaw.LEAVES_COMMANDS:
                    yield f"ends the command in the session of {number}", state._replace(orphan=False)
                    return
                if any(one.locks for one in state.workers) and self._flaw is not Flaw.NO_LOCK:
                    return  # handed back
                resumes = worker._replace(step=Step.CLAIM, task=number, plan="resumed", locks=True)
                yield f"{label}, and takes the session", _with(state, index, resumes)

    def _decides(self, state: State, index: int, number: int, fault: str) -> State:
        plan = "fresh" if number == _FRESH else "session_gone"
        worker = state.workers[index]._replace(step=Step.CLAIM, task=number, plan=plan)
        return _with(state._replace(fault=fault), index, worker)

    def _claims(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        task = state.tasks[worker.task]
        left = self._expiries_after(state, task)
        if task.how or left is None:
            yield "loses the claim", _with(state, index, Worker(worker.place))
            return
        if worker.plan == "first" and state.cancelled:
            ended = _settled(state, worker.task, Task("cancelled", how="cancelled"))
            yield "settles it as cancelled", _with(ended, index, Worker(worker.place))
            return
        if worker.plan == "session_gone":
            ended = _settled(state, worker.task, Task("failed", how="session_gone"))
            yield "settles it as session_gone", _with(ended, index, Worker(worker.place))
            return
        number = state.claims % 6 + 1  # more are not at work at a time
        working = _settled(state._replace(claims=number, expiries=left), worker.task, Task("working", number))
        yield "claims it", _with(working, index, worker._replace(step=Step.RUN, claim=number))

    def _ends(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        task, free = state.tasks[worker.task], Worker(worker.place)
        if task.how or task.claim != worker.claim:
            yield "has lost its claim", _with(state, index, free)
            return
        how = {"first": "completed", "resumed": "resumed", "fresh": "fresh"}[worker.plan]
        ended = _settled(state, worker.task, Task("completed", how=how))
        if worker.task == _FIRST:
            ended = ended._replace(session=worker.place)
            if state.cancelled:
                ended = _settled(state, _FIRST, Task("cancelled", how="cancelled"))
        yield f"ends it: {how}", _with(ended, index, free)


def _fault(state: State) -> str:
    inside = [one for one in state.workers if one.step is Step.RUN and one.plan == "resumed"]
    if any(one.place != state.session for one in inside):
        return "a session is resumed at another place"
    if len(inside) + (state.orphan and bool(inside)) > 1:
        return "two runs are in one session"
    return ""


def _died(state: State, index: int, worker: Worker) -> State:
    """The worker is dead: its lock is free, and its command may run on."""
    runs_on = worker.step is Step.RUN and worker.plan == "resumed"
    return _with(state._replace(orphan=state.orphan or runs_on), index, Worker(worker.place, Step.DEAD))


def _settled(state: State, number: int, task: Task) -> State:
    tasks = list(state.tasks)
    tasks[number] = task
    return state._replace(tasks=(tasks[0], tasks[1], tasks[2]))


def _with(state: State, index: int, worker: Worker) -> State:
    workers = list(state.workers)
    workers[index] = worker
    return state._replace(workers=(workers[0], workers[1], workers[2]))
