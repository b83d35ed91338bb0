"""An exhaustive explorer of the settlement: every interleaving of two workers over one task.

The decisions are the worker's own (`agentbus_worker.settling.decisions`); what is modelled here is only what carries
them out: one ledger key with compare-and-set, one task message, one inbox that remembers ids, a disk for each worker.
Anything can happen between any two steps: a worker dies and starts again, the answer to a write gets lost, the
message is delivered again though its owner lives, the server forgets an acknowledgement, a cancel request is written,
the bus refuses a commit or a publication for want of a right, a machine cannot start the command, the ledger is made
anew without the task. A lease may count as expired at any time: that covers paused and cut off owners. Where the leases
of living owners last (`patient`), no command may run twice without a death. Where all leases last for ever and no
delivery is repeated by itself (`at_once`), a worker that starts again must free what it was at work on when it died,
and no command may run beside another.

A `Flaw` breaks one rule of the protocol on purpose; the explorer must find what goes wrong then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from agentbus.protocol.ledger_entry import CancelRequest, Claim, Entry, NoEntry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks import settle
from agentbus_worker.settling import decisions
from agentbus_worker.settling.decisions import Policy
from system.state_walk import Walk

MAX_ATTEMPTS = 2
MAX_RENEWALS = 1
_NO_CLAIM = "-"
"""On record for a task that was delivered and not claimed."""
_NONCES = tuple(f"n{number}" for number in range(12))


class Flaw(Enum):
    """Rules of the protocol that can be broken."""

    NONE = "none"
    ACK_FIRST = "the delivery is acknowledged before the command runs"
    NO_FENCE = "the result is published without the compare-and-set that commits it"
    ID_OF_PUBLICATION = "the id of the result belongs to the publication, not to the commit"
    SHORT_MEMORY = "the server forgets the ids of results while the task can still be delivered"
    BLIND_OUTBOX = "a worker that starts publishes whatever lies in its outbox"
    ACK_SETTLED = "a settled task is acknowledged without making sure of its result"
    IGNORE_REFUSAL = "a worker whose commit was refused publishes all the same"
    NO_TAKEOVER = "a task whose owner is gone is left to that owner"
    FORGETS_REFUSED = "an outcome that the bus has refused lies in the outbox until the worker starts again"
    OWN_OUTBOX_ONLY = "a worker does not look into the outboxes of the others on its machine"
    PAUSED_FOR_GOOD = "a worker whose machine could not start the command takes no task any more"
    NO_REVISION = "what a lagging replica said is written over what the ledger holds"
    NO_RECORD = "a worker that starts again does not know what it was at work on"
    FREES_TOO_EARLY = "a claim is freed while its command still runs"
    RETURNS_FIRST = "a delivery is returned before the claim is freed"
    RETURNS_ONLY_ITS_OWN = "a delivery is returned by the worker alone that frees the claim, which may die in between"


class Key(NamedTuple):
    """The ledger entry, as much of it as decides. `result` is the id of the committed result.

    `ended` says that its lease is over because its worker is known to be dead.
    """

    state: str
    attempt: int = 0
    nonce: str = ""
    renewals: int = 0
    cancel: bool = False
    result: str = ""
    ended: bool = False


class Step(Enum):
    """Where a worker is."""

    DEAD = "dead"
    IDLE = "idle"
    READ = "about to read the ledger"
    CAS = "about to write the ledger"
    REFUSED = "refused, about to read the ledger"
    RUNNING = "running the command"
    PUBLISH = "about to publish the result"
    ACK = "about to acknowledge"
    REPLAY = "about to read the ledger for its outbox"
    PAUSED = "taking no tasks, because its machine could not start the command"
    FREE = "about to free what it was at work on when it died"
    RETURN = "about to return the delivery that it had when it died"


class Worker(NamedTuple):
    """A worker: where it is, the entry that it holds or tries, and what it does once that is written.

    `fresh` says whether the ledger still is at the revision that this worker knows: a compare-and-set asks no more.
    `outbox` is the claim whose outcome it keeps, in memory where the disk is full (`on_disk`). `record` is the claim of
    the task that it was at work on when it died, and `orphan` whether the command of that claim still runs. `ours` says
    that the ledger was made anew while it held its claim in the old one.
    """

    step: Step = Step.IDLE
    held: Key | None = None
    fresh: bool = False
    tried: Key | None = None
    then: str = ""
    outbox: str = ""
    on_disk: bool = True
    record: str = ""
    orphan: bool = False
    ours: bool = False

    def at(self, step: Step, **more: Any) -> "Worker":
        """The worker at another step, of which it keeps nothing but its outbox, and its record until it is freed."""
        kept = Worker(step, outbox=self.outbox, on_disk=self.on_disk, record=self.record, orphan=self.orphan)
        return kept._replace(**more)


class State(NamedTuple):
    """Everything there is. `untouched`: the ledger still is at the revision that the task's header names.

    `before` is what the key held before its last change, which a replica that lags behind still answers with. `runs`
    counts how often the command was started, without a worker that gave the task back, and without a death. `out` says
    that the message is with a worker, or waits for a lease to run out.
    """

    key: Key | None
    untouched: bool
    message: bool
    inbox: tuple[str, ...]
    workers: tuple[Worker, Worker]
    publications: int
    crashes: int
    losses: int
    forgets: int
    cancels: int
    lags: int = 0
    before: Key | None = None
    refusals: int = 0
    setbacks: int = 0
    runs: int = 0
    deaths: bool = False
    out: bool = False
    wipes: int = 0


@dataclass
class Report:
    """What an exploration found: a fault is the path that leads to it."""

    states: int
    two_results: list[str] = field(default_factory=list[str])
    unconfirmed: list[str] = field(default_factory=list[str])
    stuck: list[str] = field(default_factory=list[str])
    run_again: list[str] = field(default_factory=list[str])
    side_by_side: list[str] = field(default_factory=list[str])
    endings: set[str] = field(default_factory=set[str])

    @property
    def sound(self) -> bool:
        """No two results, none that the ledger denies, no state without a way to one, no second run without a cause."""
        return not (self.two_results or self.unconfirmed or self.stuck or self.run_again or self.side_by_side)


@cache
def entry_of(key: Key) -> Entry:
    """The real ledger entry that `key` stands for."""
    stamp = "2026-05-18T00:00:00+00:00"
    return Entry(
        state=key.state,  # pyright: ignore[reportArgumentType]
        digest="d",
        sender="agent-main",
        inbox="main",
        task_type="t",
        attempt=key.attempt,
        claim=Claim(worker="w", nonce=key.nonce, renewals=key.renewals, lease_s=0 if key.ended else 30, since=stamp)
        if key.nonce
        else None,
        cancel=CancelRequest(by="agent-main", at=stamp) if key.cancel else None,
        result={"id": key.result, "type": "task.result", "status": key.state, "task": {}} if key.result else None,
    )


def found_of(key: Key | None, revision: int) -> Record | NoEntry:
    """What reading the ledger gives."""
    if key is None:
        return NoEntry(revision)
    return Record(TaskKey("code", "t"), entry_of(key), revision, datetime(2026, 5, 18, tzinfo=UTC))


@cache
def decide(key: Key | None, wait: bool, finished: bool) -> decisions.Decision:
    """The worker's own decision on a delivery."""
    fresh, policy = entry_of(Key("queued")), Policy(max_attempts=MAX_ATTEMPTS)
    return decisions.on_delivery(found_of(key, 1), fresh, wait_s=1.0 if wait else 0.0, policy=policy, finished=finished)


@cache
def refused(tried: Key, key: Key | None) -> settle.Verdict:
    """The worker's own reading of a refused write."""
    return settle.on_refusal(entry_of(tried), found_of(key, 1))


@cache
def replay(nonce: str, result: str, key: Key | None) -> object:
    """The worker's own decision on an outcome from disk."""
    return decisions.on_outbox(found_of(key, 1), nonce=nonce, result_id=result, expired=False)


@cache
def left(nonce: str, key: Key | None) -> object:
    """The worker's own decision on a claim from disk."""
    return decisions.on_left_claim(found_of(key, 1), nonce=nonce)


def result_of(nonce: str) -> str:
    """The id of the result that a claim commits."""
    return f"r-{nonce}"


class Explorer:
    """Walks all states that can be reached."""

    def __init__(
        self,
        flaw: Flaw = Flaw.NONE,
        *,
        crashes: int = 1,
        losses: int = 1,
        forgets: int = 1,
        cancels: int = 1,
        lags: int = 0,
        refusals: int = 0,
        setbacks: int = 0,
        wipes: int = 0,
        patient: bool = False,
        one_machine: bool = False,
        at_once: bool = False,
    ) -> None:
        """Take the faults that may happen, each so many times.

        Args:
            patient: no lease of a living owner expires, unless the bus refuses its outcome.
            at_once: no lease expires at all, and a message that is with a worker is not delivered again.
        """
        self._flaw = flaw
        self._refusals = refusals
        self._setbacks = setbacks
        self._wipes = wipes
        self._patient = patient or at_once
        self._at_once = at_once
        self._one_machine = one_machine and flaw is not Flaw.OWN_OUTBOX_ONLY
        self._shares_leases = one_machine
        self._lags = lags
        self._budget = (crashes, losses, forgets, cancels)
        self._header = True

    def explore(self, *, foreign: bool = False) -> Report:
        """Visit every state; `foreign` begins with a task that has no ledger entry."""
        self._header = not foreign
        start = State(
            key=None if foreign else Key("queued"),
            untouched=not foreign,
            message=True,
            inbox=(),
            workers=(Worker(), Worker()),
            publications=0,
            crashes=self._budget[0],
            losses=self._budget[1],
            forgets=self._budget[2],
            cancels=self._budget[3],
            lags=self._lags,
            refusals=self._refusals,
            setbacks=self._setbacks,
            wipes=self._wipes,
        )
        walk, report, goals = Walk(start), Report(0), list[State]()
        for state in walk.states(self._canonical_steps):
            self._inspect(state, walk, report, goals)
            if report.two_results or report.unconfirmed or report.run_again or report.side_by_side:
                break
        report.states = len(walk)
        if report.sound and (stuck := walk.without_way_to(goals)) is not None:
            report.stuck.append(walk.path(stuck))  # no path leads from it to a result in the inbox
        return report

    def _inspect(self, state: State, walk: Walk[State], report: Report, goals: list[State]) -> None:
        if len(state.inbox) > 1:
            report.two_results.append(walk.path(state))
        elif state.runs > 1 and not state.deaths:
            report.run_again.append(walk.path(state))
        elif self._at_once and sum(w.step is Step.RUNNING or w.orphan for w in state.workers) > 1:
            report.side_by_side.append(walk.path(state))
        elif state.inbox and (state.key is None or state.key.result != state.inbox[0].partition("#")[0]):
            report.unconfirmed.append(walk.path(state))
        elif state.inbox and state.key is not None:
            report.endings.add(state.key.state)
            goals.append(state)

    def _canonical_steps(self, state: State) -> Iterator[tuple[str, State]]:
        return ((label, _canonical(following)) for label, following in self._steps(state))

    # -- what can happen next -----------------------------------------------------------------------------------

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        for index in (0, 1):
            worker = state.workers[index]
            for label, following in self._worker_steps(state, index, worker):
                yield f"worker {index} {label}", following
            if state.lags and worker.step in (Step.READ, Step.REFUSED, Step.REPLAY):
                yield from self._reads_at_a_lagging_replica(state, index, worker)
            if worker.step is not Step.DEAD and state.crashes:
                died = _with(state, index, self._dead(worker))._replace(crashes=state.crashes - 1, deaths=self._patient)
                yield f"worker {index} dies", died
            if worker.orphan:
                yield f"the command of worker {index} ends", _with(state, index, worker._replace(orphan=False))
        if state.cancels and state.key is not None and not state.key.result and not state.key.cancel:
            request = state.key._replace(cancel=True)
            yield "a cancel request", _written(state, request)._replace(cancels=state.cancels - 1)
        if state.wipes and state.key is not None and not state.key.result:
            yield "the ledger is made anew", _wiped(state, state.key)
        if state.forgets and not state.message:
            yield "the server forgets the ack", state._replace(message=True, out=False, forgets=state.forgets - 1)

    def _dead(self, worker: Worker) -> Worker:
        """A worker that has died: what is left of it is on disk, and perhaps its command."""
        dead = Worker(Step.DEAD, outbox=worker.outbox if worker.on_disk else "")
        if not self._at_once or self._flaw is Flaw.NO_RECORD:
            return dead
        held = worker.held or worker.tried
        record = worker.record or (held.nonce or _NO_CLAIM if held else _NO_CLAIM * (worker.step is Step.READ))
        return dead._replace(record=record, orphan=worker.orphan or worker.step is Step.RUNNING)

    def _reads_at_a_lagging_replica(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        """The same steps on what the key held before its last change; nothing that was read so is at its revision."""
        seen = state._replace(key=state.before, before=state.key)
        left = state.lags - 1
        for label, following in self._worker_steps(seen, index, worker):
            misled = following.workers[index]._replace(fresh=self._flaw is Flaw.NO_REVISION)
            present = following._replace(key=state.key, before=state.before if left else None, lags=left)
            yield f"worker {index} {label}, at a replica that lags behind", _with(present, index, misled)

    def _worker_steps(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        match worker.step:
            case Step.DEAD:
                yield "starts", _with(state, index, self._started(worker.at(Step.IDLE)))
            case Step.IDLE:
                yield from self._idle(state, index, worker)
            case Step.READ:
                yield from self._read(state, index, worker)
            case Step.CAS:
                yield from self._write(state, index, worker)
            case Step.REFUSED:
                yield from self._refused(state, index, worker)
            case Step.RUNNING:
                yield from self._running(state, index, worker)
            case Step.PUBLISH:
                yield from self._publish(state, index, worker)
            case Step.ACK:
                yield from self._acknowledge(state, index, worker)
            case Step.REPLAY:
                yield from self._replay(state, index, worker)
            case _:
                yield from self._special_steps(state, index, worker)

    def _special_steps(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        """What a worker does after its start, and in a pause."""
        match worker.step:
            case Step.FREE:
                yield from self._free(state, index, worker)
            case Step.RETURN:
                yield from self._return(state, index, worker)
            case _:
                if self._flaw is not Flaw.PAUSED_FOR_GOOD:
                    yield "tries a task", _with(state, index, worker.at(Step.IDLE))

    def _started(self, worker: Worker) -> Worker:
        """What a worker does first: it replays its outbox, and then frees what it was at work on."""
        if worker.outbox and worker.step is Step.IDLE:
            return worker._replace(step=Step.REPLAY)
        return worker._replace(step=Step.FREE) if worker.record else worker.at(Step.IDLE)

    def _free(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        """Free the claim that is on record, once no process of it is left."""
        if worker.orphan and self._flaw is not Flaw.FREES_TOO_EARLY:
            return
        back = worker._replace(step=Step.RETURN)
        if worker.outbox == worker.record:
            yield "finds its outcome", _with(state, index, worker.at(Step.IDLE, record="", orphan=False))
            return
        decision = left(worker.record, state.key)
        if self._flaw is Flaw.RETURNS_ONLY_ITS_OWN and isinstance(decision, decisions.ReturnDelivery):
            decision = decisions.LeaveClaim()
        match decision:
            case decisions.EndLease():
                assert state.key is not None, "the claim is in the ledger"
                tried = state.key._replace(nonce=_unused_nonce(state), ended=True)
                early = self._flaw is Flaw.RETURNS_FIRST
                follow = worker.at(Step.CAS, fresh=True, tried=tried, then="done" if early else "return")
                yield "finds its claim", _with(state._replace(out=False) if early else state, index, follow)
            case decisions.ReturnDelivery():
                yield "finds that no worker has it", _with(state, index, back)
            case _:
                yield "finds another worker's claim", _with(state, index, worker.at(Step.IDLE, record="", orphan=False))

    def _return(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        returned = state._replace(out=False)
        yield "returns the delivery", _with(returned, index, worker)
        yield (
            "returns the delivery, and removes its record",
            _with(returned, index, worker.at(Step.IDLE, record="", orphan=False)),
        )

    def _idle(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        if worker.outbox and self._flaw is not Flaw.FORGETS_REFUSED:
            yield "tries again what was refused", _with(state, index, worker.at(Step.REPLAY))
        if state.message and not state.out:
            yield from self._deliver(state._replace(out=self._at_once), index, worker)

    def _deliver(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        if self._flaw is Flaw.ACK_FIRST:
            state = state._replace(message=False)
        yield "gets the task", _with(state, index, worker._replace(step=Step.READ))
        if self._header:  # a first delivery is claimed by the revision in its header, without reading
            claiming = self._claim(state, index, worker, Key("queued"), fresh=state.untouched, attempt=1)
            yield "gets the task and claims at once", claiming

    def _read(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        owned = state.key is not None and state.key.state == "working"
        finished = owned and self._flaw is not Flaw.FORGETS_REFUSED and self._is_finished(state, index)
        for wait in self._waits(state, index) if owned else (False,):
            if self._flaw is Flaw.NO_TAKEOVER and owned and not wait:
                continue
            decision = decide(state.key, wait, finished)
            match decision:
                case decisions.Claim(_, _, attempt):
                    base = state.key or Key("queued")
                    yield "reads, claims", self._claim(state, index, worker, base, fresh=True, attempt=attempt)
                case decisions.Republish():
                    follow = worker.at(Step.PUBLISH, tried=state.key, then="ack")
                    if self._flaw is Flaw.ACK_SETTLED:
                        follow = worker.at(Step.ACK)
                    yield "reads: settled", _with(state, index, follow)
                case decisions.CommitOutbox():
                    assert state.key is not None, "the outcome is that of a claim"
                    tried = state.key._replace(state="completed", result=result_of(state.key.nonce))
                    follow = worker.at(Step.CAS, fresh=True, tried=tried, then="publish finished")
                    yield "reads: finished on this machine", _with(state, index, follow)
                case decisions.SettleCancelled() | decisions.SettleExhausted():
                    assert state.key is not None, "only an entry can be cancelled or exhausted"
                    nonce = _unused_nonce(state)
                    status = "cancelled" if isinstance(decision, decisions.SettleCancelled) else "failed"
                    tried = state.key._replace(state=status, nonce=nonce, result=result_of(nonce))
                    follow = worker.at(Step.CAS, fresh=True, tried=tried, then="publish unrun")
                    yield f"reads: {status}", _with(state, index, follow)
                case decisions.Defer():
                    yield "reads: the owner lives", _with(state, index, worker._replace(step=Step.IDLE))

    def _is_finished(self, state: State, index: int) -> bool:
        """Whether the outcome of the claim in the ledger lies on the machine of a worker."""
        seen = state.workers if self._one_machine else (state.workers[index],)
        return state.key is not None and state.key.nonce in {worker.outbox for worker in seen}

    def _waits(self, state: State, index: int) -> tuple[bool, ...]:
        """Whether the lease in the ledger may count as expired, or not, for a worker that reads it."""
        assert state.key is not None, "a lease is read"
        if state.key.ended:
            return (False,)
        if self._at_once:
            return (True,)
        if not self._patient:
            return False, True
        nonce, other = state.key.nonce, state.workers[1 - index]
        alive = [worker for worker in state.workers if worker.step is not Step.DEAD]
        if any(key.nonce == nonce for worker in alive for key in (worker.held, worker.tried) if key is not None):
            return (True,)
        # One whose outcome was refused does not renew, and keeps the delivery from other machines for a lease.
        held_elsewhere = other in alive and other.outbox == nonce and not self._shares_leases
        return (True,) if held_elsewhere else (False, True)

    def _claim(self, state: State, index: int, worker: Worker, base: Key, *, fresh: bool, attempt: int) -> State:
        tried = base._replace(state="working", attempt=attempt, nonce=_unused_nonce(state), renewals=0, ended=False)
        return _with(state, index, worker.at(Step.CAS, fresh=fresh, tried=tried, then="run"))

    def _write(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        assert worker.tried is not None, "something is written"
        committing = worker.then == "publish"
        if self._flaw is Flaw.NO_FENCE and committing:
            yield "does not commit", _with(state, index, worker._replace(step=Step.PUBLISH, then="ack"))
            return
        if worker.tried.result and state.refusals:
            yield "may not write", self._kept(state, index, worker)
        if worker.fresh:
            written = _written(state, worker.tried)
            if worker.tried.state == "queued":
                written = written._replace(runs=0)
            yield f"writes {worker.tried.state}", self._won(written, index, worker)
            if state.losses:
                lost = written._replace(losses=state.losses - 1)
                yield f"writes {worker.tried.state}, the answer gets lost", lost
        else:
            yield "is refused", _with(state, index, worker._replace(step=Step.REFUSED, held=None))

    def _kept(self, state: State, index: int, worker: Worker) -> State:
        """The bus refuses a commit or a publication: the outcome of a run of this worker is kept, the rest is not."""
        assert worker.tried is not None, "something was refused"
        after, nonce = worker.at(Step.IDLE), worker.tried.nonce
        if worker.then == "publish":
            after = Worker(outbox=nonce, on_disk=worker.outbox == nonce)
        return _with(state._replace(refusals=state.refusals - 1), index, after)

    def _won(self, state: State, index: int, worker: Worker) -> State:
        """The write is known to be stored: go on with what it was for."""
        held = worker._replace(held=worker.tried, fresh=True, ours=False)
        match worker.then:
            case "run":
                started = self._patient and worker.tried is not None and not worker.tried.renewals
                counted = state._replace(runs=min(state.runs + started, 2))
                return _with(counted, index, held._replace(step=Step.RUNNING, tried=None, then=""))
            case "publish" | "publish unrun" | "publish finished":
                return _with(state, index, held._replace(step=Step.PUBLISH, held=None, fresh=False, then="ack"))
            case "publish from outbox":
                return _with(state, index, held._replace(step=Step.PUBLISH, held=None, fresh=False, then="forget"))
            case "pause":
                return _with(state._replace(runs=0, out=False), index, worker.at(Step.PAUSED))
            case "idle":
                returned = state._replace(out=False)
                return _with(returned, index, worker.at(Step.IDLE))
            case "return":
                return _with(state, index, worker.at(Step.RETURN))
            case "done":
                return _with(state, index, worker.at(Step.IDLE, record="", orphan=False))
            case other:
                raise AssertionError(other)

    def _refused(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        assert worker.tried is not None, "something was refused"
        if self._flaw is Flaw.IGNORE_REFUSAL and worker.then == "publish":
            yield "publishes all the same", _with(state, index, worker._replace(step=Step.PUBLISH, then="ack"))
            return
        verdict, first_claim = refused(worker.tried, state.key), worker.then == "run" and not worker.tried.renewals
        match verdict:
            case settle.Vacant() if worker.ours and not first_claim:
                yield "enters its claim again", _with(state, index, worker._replace(step=Step.CAS, fresh=True))
            case settle.Won():
                assert state.key is not None, "what was stored is there"
                adopted = worker._replace(tried=state.key)
                yield "had won", self._won(state, index, adopted)
            case _ if worker.then in ("publish unrun", "publish finished"):
                yield "reads again", _with(state, index, worker.at(Step.READ))
            case _ if worker.then == "publish from outbox":
                yield "reads again", _with(state, index, worker.at(Step.REPLAY))
            case _ if worker.then in ("return", "done"):
                yield "reads again", _with(state, index, worker.at(Step.FREE))
            case settle.Adopt():
                assert state.key is not None, "only an entry is adopted"
                tried = worker.tried._replace(cancel=state.key.cancel)
                yield "adopts", _with(state, index, worker._replace(step=Step.CAS, held=None, fresh=True, tried=tried))
            case settle.Lost():
                # A claim reads again; a run drops its outcome and sends nothing.
                again = worker.then == "run"
                kept = worker.at(Step.READ) if again else Worker()
                yield "has lost", _with(state, index, kept)

    def _running(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        held = worker.held
        assert held is not None, "a run has a claim"
        cas = worker._replace(step=Step.CAS, held=None)
        if held.renewals < MAX_RENEWALS:
            yield (
                "renews",
                _with(state, index, cas._replace(tried=held._replace(renewals=held.renewals + 1), then="run")),
            )
        outcome = "cancelled" if held.cancel else "completed"
        tried = held._replace(state=outcome, result=result_of(held.nonce))
        commit = cas._replace(tried=tried, then="publish")
        # The outbox is written before the commit or beside it: a crash may come before either.
        kept = commit._replace(outbox=held.nonce, on_disk=True)
        yield f"ends ({outcome}), with the outbox", _with(state, index, kept)
        yield f"ends ({outcome}), the disk is full", _with(state, index, commit)
        if held.attempt == 1 and not held.cancel:
            back = cas._replace(tried=held._replace(state="queued", attempt=0))
            yield "gives the task back", _with(state, index, back._replace(then="idle"))
            if state.setbacks and not held.renewals:
                paused = state._replace(setbacks=state.setbacks - 1)
                yield "cannot start the command", _with(paused, index, back._replace(then="pause"))

    def _publish(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        assert worker.tried is not None, "a result is published"
        name = worker.tried.result
        if self._flaw is Flaw.ID_OF_PUBLICATION:
            name = f"{name}#{state.publications}"
        known = name in state.inbox and self._flaw is not Flaw.SHORT_MEMORY
        inbox = state.inbox if known else tuple(sorted((*state.inbox, name)))
        stored = state._replace(inbox=inbox, publications=min(state.publications + 1, 2))
        if state.refusals:
            yield "may not publish", self._kept(state, index, worker)
        if worker.then == "ack":
            yield "publishes", _with(stored, index, worker._replace(step=Step.ACK))
        else:
            yield "publishes from its outbox", _with(stored, index, _replayed(worker))
        if state.losses:
            lost = stored._replace(losses=state.losses - 1)
            yield "publishes, the answer gets lost", _with(lost, index, worker)

    def _acknowledge(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        done = worker.tried is not None and worker.tried.nonce == worker.outbox
        after = Worker() if done else worker.at(Step.IDLE)
        yield "acknowledges", _with(state._replace(message=False), index, after)
        if state.losses:
            lost = state._replace(losses=state.losses - 1)
            yield "acknowledges, which gets lost", _with(lost, index, after)

    def _replay(self, state: State, index: int, worker: Worker) -> Iterator[tuple[str, State]]:
        nonce = worker.outbox
        assert nonce, "there is something to replay"
        result = result_of(nonce)
        decision = replay(nonce, result, state.key)
        base = state.key or Key("queued")
        tried = base._replace(state="completed", nonce=nonce, result=result)
        publish = worker.at(Step.PUBLISH, tried=tried, then="forget")
        if self._flaw is Flaw.BLIND_OUTBOX:
            yield "publishes its outbox blindly", _with(state, index, publish)
            return
        match decision:
            case decisions.CommitOutbox():
                follow = worker.at(Step.CAS, fresh=True, tried=tried, then="publish from outbox")
                yield "commits its outbox", _with(state, index, follow)
            case decisions.RepublishOutbox():
                yield "publishes its outbox again", _with(state, index, publish)
            case _:
                yield "drops its outbox", _with(state, index, _replayed(worker))


def _replayed(worker: Worker) -> Worker:
    """A worker that has nothing in its outbox any more."""
    step = Step.FREE if worker.record else Step.IDLE
    return Worker(step, record=worker.record, orphan=worker.orphan)


def _written(state: State, key: Key) -> State:
    """The ledger after a write: no worker knows its revision any more."""
    one, two = state.workers
    workers = (one._replace(fresh=False), two._replace(fresh=False))
    return state._replace(key=key, untouched=False, workers=workers, before=state.key if state.lags else None)


def _wiped(state: State, key: Key) -> State:
    """A new ledger that does not know the task; a living worker whose claim the old one had notices that in time."""
    one, two = (
        who._replace(
            fresh=False,
            ours=key.state == "working"
            and who.step is not Step.DEAD
            and any(mine is not None and mine.nonce == key.nonce for mine in (who.held, who.tried)),
        )
        for who in state.workers
    )
    return state._replace(key=None, untouched=False, workers=(one, two), before=None, wipes=state.wipes - 1)


def _unused_nonce(state: State) -> str:
    """A nonce that nothing refers to: as good as a new one, and the number of states stays finite."""
    used = {key.nonce for key in (state.key, state.before) if key} | {
        name.removeprefix("r-").partition("#")[0] for name in state.inbox
    }
    for worker in state.workers:
        used |= {key.nonce for key in (worker.held, worker.tried) if key is not None} | {worker.outbox, worker.record}
    return next(nonce for nonce in _NONCES if nonce not in used)


def _with(state: State, index: int, worker: Worker) -> State:
    workers = (worker, state.workers[1]) if index == 0 else (state.workers[0], worker)
    return state._replace(workers=workers)


def _order(worker: Worker) -> tuple[object, ...]:
    step, held, fresh, tried, then, *rest = worker
    return step.value, held or (), fresh, tried or (), then, *rest


def _canonical(state: State) -> State:
    """The two workers are alike: which is the first makes no difference, and halves the states."""
    one, two = state.workers
    return state._replace(workers=(two, one)) if _order(two) < _order(one) else state  # pyright: ignore[reportOperatorIssue]
