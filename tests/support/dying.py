"""Runs agentbus until it reaches one exact point, and kills it there: `dying.py POINT worker run …`.

The process sends SIGKILL to itself, so nothing is cleaned up, or another signal once. The points are between two steps
of the code of a worker or a coordinator, which is patched from here.
"""

import asyncio
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

from agentbus import coordinator_publishing
from agentbus.admin import dead_letters
from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.cli import main
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks import settle
from agentbus.tasks.ledger import Ledger
from agentbus_worker import predecessors, worker
from agentbus_worker.asking.answer_pipe import AnswerPipe
from agentbus_worker.claim_records import ClaimRecords, LeftClaims
from agentbus_worker.pausing.pause import Pause
from agentbus_worker.running import command
from agentbus_worker.running.process_tree import Children
from agentbus_worker.settling import claim, job, outbox, result
from agentbus_worker.settling.lease import Lease
from agentbus_worker.settling.outbox import Outbox
from agentbus_worker.settling.slots import Reservation
from agentbus_worker.settling.unsettled import Unsettled
from agentbus_worker.state_folder import StateFolder


@dataclass(frozen=True)
class Point:
    """A point right before or after a call of `owner.name` with arguments that `when` accepts.

    `holds` are concurrent steps that never complete, so that the process dies before them. `sends` is what it sends to
    itself.
    """

    owner: Any
    name: str
    moment: Literal["before", "after"]
    when: Callable[..., bool] = lambda *_, **__: True
    holds: tuple[tuple[Any, str], ...] = ()
    sends: signal.Signals = signal.SIGKILL


def writes(state: str, *, renewals: int | None = None, ended: bool = False) -> Callable[..., bool]:
    """Match a call of `Ledger.write` that writes this state; `settled` is any terminal one.

    `ended` is for the write that ends the lease of a dead worker.
    """

    def wanted(_self: Ledger, _key: TaskKey, entry: Any, **_: Any) -> bool:
        if ended != (entry.claim is not None and entry.claim.lease_s == 0):
            return False
        if renewals is not None and (entry.claim is None or entry.claim.renewals != renewals):
            return False
        return bool(entry.terminal) if state == "settled" else entry.state == state

    return wanted


def asks(_self: Ledger, _key: TaskKey, entry: Any, **_: Any) -> bool:
    """Match a call of `Ledger.write` that writes a question."""
    return entry.questions is not None


def stores(part: str) -> Callable[..., bool]:
    """Match a call of `Bus.store` whose subject has this part."""

    def wanted(_self: Bus, subject: str, *_: Any, **__: Any) -> bool:
        return part in subject

    return wanted


COMMIT = (Lease, "commit")
OUTBOX = (Outbox, "put")

POINTS: dict[str, Point] = {
    # the worker, from the delivery to the end of the command
    "delivered": Point(worker, "claim", "before"),
    "claimed": Point(Ledger, "write", "after", writes("working", renewals=0)),
    "claimed, without a slot": Point(Reservation, "acquire", "before"),
    "slot granted": Point(Reservation, "acquire", "after"),
    "command about to start": Point(Children, "start", "before"),
    "command started, not recorded": Point(Children, "started", "before"),
    "command recorded": Point(Children, "record", "after"),
    "lease renewed, delivery not extended": Point(Ledger, "write", "after", writes("working", renewals=1)),
    "command ended": Point(command.Child, "ended", "after"),
    "file half stored": Point(Bus, "store", "after", stores("$O.AGENT_FILES_code.C.")),
    "file stored": Point(result, "put_file", "after"),
    # a question
    "question written, answer not seen": Point(Ledger, "write", "after", asks),
    "answer marked, not given": Point(AnswerPipe, "give", "before"),
    "answer given": Point(AnswerPipe, "give", "after"),
    # the settlement
    "outcome about to be written": Point(*OUTBOX, "before", holds=(COMMIT,)),
    "outcome on disk, not committed": Point(*OUTBOX, "after", holds=(COMMIT,)),
    "committed without a copy on disk": Point(Ledger, "write", "after", writes("settled"), holds=(OUTBOX,)),
    "committed, answer not seen": Point(Ledger, "write", "after", writes("settled")),
    "committed, not published": Point(job, "publish_committed", "before"),
    "published, not acknowledged": Point(job, "publish_committed", "after"),
    "acknowledged, copy still on disk": Point(Outbox, "remove", "before"),
    "settled": Point(Outbox, "remove", "after"),
    # a run without a result
    "released, delivery not returned": Point(Lease, "release", "after"),
    "queued for a retry, delivery not returned": Point(Lease, "queue_retry", "after"),
    "delivery returned": Point(Delivery, "nak", "after"),
    # the hand-back of a task whose command the machine cannot start
    "paused, not handed back": Point(Pause, "begin", "after"),
    "setbacks reckoned, not written": Point(Lease, "release", "before"),
    "handed back, answer not seen": Point(Ledger, "write", "after", writes("queued")),
    # the settlement without a run
    "settled without a run, not published": Point(settle, "publish_committed", "before"),
    "published again, not acknowledged": Point(claim, "publish_again", "after"),
    # a start
    "state folder taken over": Point(StateFolder, "take_over", "after"),
    "replay begun": Point(Unsettled, "_settle", "before"),
    "replay committed, not published": Point(Ledger, "write", "after", writes("settled")),
    "replay published, copy still on disk": Point(Unsettled, "_settle", "after"),
    "left claim about to be freed": Point(predecessors, "_hand_back", "before"),
    "left claim freed, answer not seen": Point(Ledger, "write", "after", writes("working", ended=True)),
    "left claim freed, delivery not returned": Point(predecessors, "return_to_server", "before"),
    "left claim freed, still on record": Point(LeftClaims, "forget", "before"),
    # a dead letter
    "dead letter stored, sender not notified": Point(Bus, "store", "after", stores("agent.code.dead")),
    "sender notified, delivery not terminated": Point(Delivery, "term", "before"),
    # the coordinator, the administrator
    "in the ledger, not queued": Point(Ledger, "create", "after"),
    "told to end, in the ledger, not queued": Point(Ledger, "create", "after", sends=signal.SIGTERM),
    "told to end, about to be queued": Point(Bus, "store", "before", stores("agent.code.tasks"), sends=signal.SIGTERM),
    "hung up, about to be queued": Point(Bus, "store", "before", stores("agent.code.tasks"), sends=signal.SIGHUP),
    "told to end, nothing begun": Point(Bus, "open", "after", sends=signal.SIGTERM),
    "queued, caller not answered": Point(coordinator_publishing, "publish", "after"),
    "cancel request written, worker not notified": Point(Ledger, "write", "after"),
    "expired, result not published": Point(Ledger, "write", "after", writes("settled")),
    "requeued, dead letter not deleted": Point(dead_letters, "_delete", "before"),
}


def patch(name: str) -> None:
    """Patch the process so that it dies at a point."""
    point = POINTS[name]
    setattr(outbox, "_WRITE_AFTER_S", 0)  # a local server would be faster than any copy  # noqa: B010
    _write_records_at_once()
    real = getattr(point.owner, point.name)

    def die(moment: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if moment == point.moment and point.when(*args, **kwargs):
            os.write(2, f"dies: {name}\n".encode())  # in one piece: a thread writes log lines meanwhile
            os.kill(os.getpid(), point.sends)

    @wraps(real)
    async def async_step(*args: Any, **kwargs: Any) -> Any:
        die("before", args, kwargs)
        found = await real(*args, **kwargs)
        die("after", args, kwargs)
        return found

    @wraps(real)
    def step(*args: Any, **kwargs: Any) -> Any:
        die("before", args, kwargs)
        found = real(*args, **kwargs)
        die("after", args, kwargs)
        return found

    setattr(point.owner, point.name, async_step if inspect.iscoroutinefunction(real) else step)
    for owner, held in point.holds:
        setattr(owner, held, _never)


def _write_records_at_once() -> None:
    """Have records of claims written by the time at which the next step begins, however busy the machine is."""
    real = ClaimRecords.fill

    @wraps(real)
    def fill(records: ClaimRecords, fields: dict[str, Any]) -> tuple[int, int | None]:
        slot, number = real(records, fields)
        disk = records._disk  # pyright: ignore[reportPrivateUsage]
        while number is not None and disk is not None and disk.done < number:
            time.sleep(0.001)
        return slot, number

    setattr(ClaimRecords, "fill", fill)  # noqa: B010


async def _never(*_: Any, **__: Any) -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    patch(sys.argv.pop(1))
    main()
