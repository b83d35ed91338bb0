"""An exhaustive explorer of the way into the queue: every interleaving of those who agree that a task is queued.

Two publishers of one task (or one, and an administrator with a dead letter of it), a worker and a reader of lost tasks
act on one ledger key with compare-and-set, and on one queue that remembers message ids. Between any two steps a party
may die, a publisher may be cancelled, the queue may be emptied, the server may forget an id, the worker may give the
task back, and so much time may pass that no publication that has begun is still under way: in the product,
publications have a bound.

A `Fault` breaks one rule on purpose; the explorer must find what goes wrong then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from system.state_walk import Walk


class Fault(Enum):
    """Rules that can be broken."""

    NONE = "none"
    CUT = "a cancelled publisher stops where it is"
    TRUST_DUPLICATE = "a message id that the server remembers counts as a message that waits"
    SAME_ID = "a lost task is stored again under the id that the server remembers"
    SILENT_STORE = "a publisher that completes the task of another one does not write its entry"
    SILENT_REQUEUE = "a dead letter is queued again, and the entry of its task stays as it was"
    SILENT_LOOK = "a publisher that sees the message of another one does not write its entry"
    NO_READER = "nobody looks for lost tasks"
    NO_BOUND = "a reader settles a task whose publisher may be about to store it"
    NO_WALK = "a reader infers from time alone that the message is gone"
    NO_REVISION = "a reader writes over what has changed since it looked"


class Key(NamedTuple):
    """The ledger entry: its state, the message id that it names, and whether it has not changed for long."""

    state: str
    publication: int
    old: bool = False


class Step(Enum):
    """Where a party is."""

    DEAD = "dead"
    DONE = "done"
    START = "about to begin"
    TAKE_BACK = "about to take its entry back"
    STORE_NEW = "about to store the message of its own entry"
    STORE_KNOWN = "about to store the message of an entry that was there"
    LOOK = "about to look whether the message still waits"
    TOUCH = "about to write the entry once more"
    RENAME = "about to give the entry another message id"
    STORE_AGAIN = "about to store the message under it"
    REQUEUE = "about to read the entry of a dead letter"
    REQUEUE_TOUCH = "about to write that entry once more"
    REQUEUE_STORE = "about to store the dead letter as a message"
    IDLE = "idle"
    CLAIM = "about to claim"
    RUN = "running"
    PUBLISH = "about to publish the result"
    ACK = "about to acknowledge"
    WALK = "about to walk the queue"
    SETTLE = "about to settle the task as lost"


class Party(NamedTuple):
    """A party: where it is, the message that it is about, and whether the ledger is as it read it."""

    step: Step
    message: int = -1
    fresh: bool = False
    cancelled: bool = False


class State(NamedTuple):
    """Everything there is. `told`: since the queue was last emptied, a publisher was told that the task is queued."""

    key: Key | None
    queue: frozenset[int]
    remembered: frozenset[int]
    inbox: frozenset[str]
    publishers: tuple[Party, Party]
    worker: Party
    reader: Party
    told: bool
    purges: int
    deaths: int
    cancels: int
    forgets: int
    returns: int


_BEFORE = (Step.START, Step.REQUEUE)
_LONGEST = 8  # message ids: more are not reached within the budgets


@dataclass
class Report:
    """What an exploration found: each fault is the path that leads to it."""

    states: int = 0
    faults: list[str] = field(default_factory=list[str])
    endings: set[str] = field(default_factory=set[str])


class _BrokenError(Exception):
    """A step that must not be possible; says why."""


class QueueExplorer:
    """Walks all states that can be reached."""

    def __init__(
        self,
        fault: Fault = Fault.NONE,
        *,
        purges: int = 1,
        deaths: int = 1,
        cancels: int = 1,
        forgets: int = 1,
        returns: int = 1,
        left: bool = False,
        requeues: bool = False,
    ) -> None:
        """`left`: it begins with an entry that a publisher, which has died, left long ago without its message.

        `requeues`: the second publisher is an administrator who has the message as a dead letter.
        """
        self._fault = fault
        self._left = left
        self._second = Step.REQUEUE if requeues else Step.START
        self._budget = (purges, deaths, cancels, forgets, returns)

    def explore(self) -> Report:
        """Visit every state, until a fault is found."""
        start = State(
            Key("queued", 0, old=True) if self._left else None,
            frozenset(),
            frozenset(),
            frozenset(),
            (Party(Step.START), Party(self._second)),
            Party(Step.IDLE),
            Party(Step.IDLE),
            False,
            *self._budget,
        )
        walk, report, goals = Walk(start), Report(), list[State]()
        try:
            for state in walk.states(self._sound_steps):
                if _ended(state):
                    goals.append(state)
                    report.endings.add(state.key.state if state.key is not None else "taken back")
        except _BrokenError as broken:
            report.faults.append(f"{walk.path(walk.at)}\n=> {broken}")
        report.states = len(walk)
        if not report.faults and (stuck := walk.without_way_to(goals)) is not None:
            report.faults.append(f"{walk.path(stuck)}\n=> nothing leads to an end from here")
        return report

    def _sound_steps(self, state: State) -> Iterator[tuple[str, State]]:
        for label, following in self._steps(state):
            _inspect(following)
            yield label, following

    # -- what can happen next -----------------------------------------------------------------------------------

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        for index, publisher in enumerate(state.publishers):
            for label, following in self._publisher(state, index, publisher):
                yield f"publisher {index} {label}", following
            under_way = publisher.step not in (*_BEFORE, Step.DONE, Step.DEAD)
            if under_way and state.deaths:
                dead = _publisher(state, index, Party(Step.DEAD))
                yield f"publisher {index} dies", dead._replace(deaths=state.deaths - 1)
            if under_way and state.cancels and not publisher.cancelled:
                yield f"publisher {index} is cancelled", self._cancelled(state, index, publisher)
        for label, following in self._worker(state, state.worker):
            yield f"the worker {label}", following
        if state.worker.step is not Step.IDLE and state.deaths:
            yield "the worker dies", state._replace(worker=Party(Step.IDLE), deaths=state.deaths - 1)
        if self._fault is not Fault.NO_READER:
            for label, following in self._reader(state, state.reader):
                yield f"the reader {label}", following
        if state.queue and state.purges:
            yield "the queue is emptied", state._replace(queue=frozenset(), told=False, purges=state.purges - 1)
        if state.remembered and state.forgets:
            yield "the server forgets ids", state._replace(remembered=frozenset(), forgets=state.forgets - 1)
        if state.key is not None and not state.key.old and state.key.state == "queued":
            yield "much time passes", _later(state, state.key._replace(old=True))

    def _cancelled(self, state: State, index: int, publisher: Party) -> State:
        left = state._replace(cancels=state.cancels - 1)
        if self._fault is not Fault.CUT:
            return _publisher(left, index, publisher._replace(cancelled=True))
        key = state.key
        if publisher.step is Step.STORE_NEW and key and key.state == "queued" and not state.queue:
            raise _BrokenError("the caller has its cancellation, and the task is queued and lies nowhere")
        return _publisher(left, index, Party(Step.DONE))

    def _publisher(self, state: State, index: int, one: Party) -> Iterator[tuple[str, State]]:
        key = state.key
        match one.step:
            case Step.START if key is None:
                number = _unused(state)
                made = _written(state, Key("queued", number))
                yield "makes the entry", _publisher(made, index, Party(Step.STORE_NEW, number, fresh=True))
            case Step.START:
                assert key is not None, "the other case"
                known = Party(Step.STORE_KNOWN, key.publication, fresh=True)
                follow = known if key.state == "queued" else Party(Step.DONE)
                yield "finds the entry", _publisher(state, index, follow)
            case Step.STORE_NEW if one.cancelled and self._fault is not Fault.CUT:
                yield "gives up", _publisher(state, index, one._replace(step=Step.TAKE_BACK))
            case Step.TAKE_BACK:
                gone = _written(state, None) if one.fresh else state
                yield "takes the entry back", _publisher(gone, index, Party(Step.DONE))
            case Step.STORE_NEW:
                stored, duplicate = _stored(state, one.message)
                if duplicate:
                    yield "meets a duplicate", _publisher(state, index, one._replace(step=Step.RENAME))
                else:
                    yield "stores the message", _told(_publisher(stored, index, Party(Step.DONE)))
            case Step.REQUEUE | Step.REQUEUE_TOUCH | Step.REQUEUE_STORE:
                yield from self._requeue(state, index, one)
            case _:
                yield from self._known(state, index, one)

    def _known(self, state: State, index: int, one: Party) -> Iterator[tuple[str, State]]:
        """What a publisher does that has found an entry of its task."""
        match one.step:
            case Step.STORE_KNOWN:
                stored, duplicate = _stored(state, one.message)
                if not duplicate and self._fault is Fault.SILENT_STORE:
                    yield "stores the message", _told(_publisher(stored, index, Party(Step.DONE)))
                elif not duplicate:
                    yield "stores the message", _publisher(stored, index, one._replace(step=Step.TOUCH))
                elif self._fault is Fault.TRUST_DUPLICATE:
                    following = _publisher(state, index, Party(Step.DONE))
                    yield "trusts a duplicate", _told(following, saw=False)
                else:
                    yield "meets a duplicate", _publisher(state, index, one._replace(step=Step.LOOK))
            case Step.LOOK:
                if one.message in state.queue and self._fault is not Fault.SILENT_LOOK:
                    yield "sees the message", _publisher(state, index, one._replace(step=Step.TOUCH))
                elif one.message in state.queue:
                    yield "sees the message", _told(_publisher(state, index, Party(Step.DONE)))
                else:
                    yield "misses the message", _publisher(state, index, one._replace(step=Step.RENAME))
            case Step.TOUCH | Step.RENAME:
                yield from self._write(state, index, one)
            case Step.STORE_AGAIN:
                stored, duplicate = _stored(state, one.message)
                following = _publisher(stored, index, Party(Step.DONE))
                yield "stores the message again", _told(following, saw=not duplicate)
            case _:
                pass

    def _requeue(self, state: State, index: int, one: Party) -> Iterator[tuple[str, State]]:
        """What an administrator does with the dead letter of a task."""
        key, silent = state.key, self._fault is Fault.SILENT_REQUEUE
        match one.step:
            case Step.REQUEUE if key is not None and key.state in ("completed", "failed"):
                yield "reads that it is settled", _publisher(state, index, Party(Step.DONE))
            case Step.REQUEUE:
                waits = key is not None and key.state == "queued" and not silent
                step = Step.REQUEUE_TOUCH if waits else Step.REQUEUE_STORE
                yield "reads the entry", _publisher(state, index, Party(step, fresh=True))
            case Step.REQUEUE_TOUCH if one.fresh:
                assert key is not None, "it was read"
                touched = _written(state, Key("queued", key.publication))
                yield "writes the entry", _publisher(touched, index, Party(Step.REQUEUE_STORE))
            case Step.REQUEUE_TOUCH:
                yield "is refused", _publisher(state, index, Party(Step.REQUEUE))
            case _:
                stored, _ = _stored(state, _unused(state))
                yield "stores the dead letter", _told(_publisher(stored, index, Party(Step.DONE)))

    def _write(self, state: State, index: int, one: Party) -> Iterator[tuple[str, State]]:
        key = state.key
        if not one.fresh:
            if key is not None and key.state != "queued":
                yield "reads that it is taken", _publisher(state, index, Party(Step.DONE))
            else:
                yield "reads again", _publisher(state, index, one._replace(fresh=True))
        elif one.step is Step.TOUCH:
            number = key.publication if key is not None else one.message
            touched = _written(state, Key("queued", number))
            yield "writes the entry", _told(_publisher(touched, index, Party(Step.DONE)))
        else:
            number = one.message if self._fault is Fault.SAME_ID else _unused(state)
            renamed = _written(state, Key("queued", number))
            yield "names another id", _publisher(renamed, index, Party(Step.STORE_AGAIN, number))

    def _worker(self, state: State, one: Party) -> Iterator[tuple[str, State]]:
        key = state.key
        match one.step:
            case Step.IDLE:
                for message in sorted(state.queue):
                    settled = key is not None and key.state in ("completed", "failed")
                    step = Step.PUBLISH if settled else Step.CLAIM
                    yield f"gets message {message}", state._replace(worker=Party(step, message, fresh=True))
            case Step.CLAIM if one.fresh:
                number = key.publication if key is not None else one.message
                claimed = _written(state, Key("working", number))
                yield "claims", claimed._replace(worker=one._replace(step=Step.RUN, fresh=True))
            case Step.RUN if one.fresh:
                assert key is not None, "it has been claimed"
                done = _written(state, Key("completed", key.publication))
                yield "settles", done._replace(worker=one._replace(step=Step.PUBLISH))
                if state.returns:
                    back = _written(state, Key("queued", key.publication))._replace(returns=state.returns - 1)
                    yield "gives the task back", back._replace(worker=Party(Step.IDLE))
            case Step.CLAIM | Step.RUN:
                yield "is refused", state._replace(worker=Party(Step.IDLE))
            case Step.PUBLISH:
                assert key is not None, "it is settled"
                inbox = state.inbox | {key.state}
                yield "publishes", state._replace(inbox=inbox, worker=one._replace(step=Step.ACK))
            case Step.ACK:
                yield "acknowledges", state._replace(queue=state.queue - {one.message}, worker=Party(Step.IDLE))
            case _:
                pass

    def _reader(self, state: State, one: Party) -> Iterator[tuple[str, State]]:
        key = state.key
        match one.step:
            case Step.IDLE if key is not None and key.state == "queued":
                if key.old or self._fault is Fault.NO_BOUND:
                    yield "reads the entry", state._replace(reader=Party(Step.WALK, fresh=True))
            case Step.IDLE if key is not None and key.state == "failed" and not state.inbox:
                yield "publishes again", state._replace(inbox=frozenset((key.state,)))
            case Step.IDLE if key is not None and key.state == "working" and state.worker.step is Step.IDLE:
                # Its message may be gone, too. Only the age at which the stream drops every message settles that.
                if not state.queue:
                    yield "waits for days", _later(_written(state, None), Key("failed", key.publication))
            case Step.WALK:
                gone = not state.queue or self._fault is Fault.NO_WALK
                follow = one._replace(step=Step.SETTLE) if gone else Party(Step.IDLE)
                yield "walks the queue", state._replace(reader=follow)
            case Step.SETTLE:
                if one.fresh or self._fault is Fault.NO_REVISION:
                    assert key is not None, "it was read"
                    if state.told:
                        raise _BrokenError("a reader settles as lost what a publisher was told to be queued")
                    lost = _written(state, Key("failed", key.publication))
                    yield "settles", lost._replace(reader=Party(Step.IDLE))
                else:
                    yield "is refused", state._replace(reader=Party(Step.IDLE))
            case _:
                pass


def _later(state: State, key: Key) -> State:
    """The state when so much time has passed that the publications that had begun are not under way any more."""
    one, two = (who if who.step in (*_BEFORE, Step.DEAD) else Party(Step.DONE) for who in state.publishers)
    return state._replace(key=key, publishers=(one, two))


def _told(state: State, *, saw: bool = True) -> State:
    """A publisher returns that the task is queued; `saw`: it has stored its message, or seen it in the queue."""
    waits = state.key is None or state.key.state == "queued"
    if waits and not state.queue and not saw:
        raise _BrokenError("a publisher is told that the task is queued, and it lies nowhere")
    if state.key is not None and state.key.state == "failed" and state.queue:
        raise _BrokenError("a publisher is told that the task is queued, and it was settled as lost")
    return state._replace(told=state.told or bool(state.queue))


def _inspect(state: State) -> None:
    if len(state.inbox) > 1:
        raise _BrokenError(f"two results: {sorted(state.inbox)}")
    if state.inbox and (state.key is None or state.key.state not in state.inbox):
        raise _BrokenError("a result that the ledger denies")


def _ended(state: State) -> bool:
    """Whether the ledger has the result, or no publication is left that is not taken back."""
    if state.key is not None:
        return state.key.state in ("completed", "failed")
    return not state.queue and all(one.step in (Step.DONE, Step.DEAD) for one in state.publishers)


def _written(state: State, key: Key | None) -> State:
    """The ledger after a write: nobody knows its revision any more."""
    one, two = state.publishers
    publishers = (one._replace(fresh=False), two._replace(fresh=False))
    worker, reader = state.worker._replace(fresh=False), state.reader._replace(fresh=False)
    return state._replace(key=key, publishers=publishers, worker=worker, reader=reader)


def _stored(state: State, message: int) -> tuple[State, bool]:
    """The queue after a message was sent to it, and whether the server took it for a duplicate."""
    if message in state.remembered:
        return state, True
    return state._replace(queue=state.queue | {message}, remembered=state.remembered | {message}), False


def _unused(state: State) -> int:
    used = state.queue | state.remembered | {one.message for one in (*state.publishers, state.worker)}
    named = state.key.publication if state.key is not None else -1
    return next(number for number in range(_LONGEST) if number not in used and number != named)


def _publisher(state: State, index: int, party: Party) -> State:
    one, two = state.publishers
    return state._replace(publishers=(party, two) if index == 0 else (one, party))
