"""Settle a task: commit its one result by compare-and-set, then publish it. The only module that knows this rule.

1. Commit. One compare-and-set takes the ledger entry to its final state, with the whole result message in it. From then
   on the result can neither be lost nor become another one.
2. Publish. The result goes from the committed entry into the inbox. Its message id is the result's id, so that the
   server keeps one copy however often this is repeated.

`publish_committed` takes a ledger entry and not a result: what is not committed cannot be published by mistake. The
callers decide when to repeat a step, and they acknowledge the delivery, if there is one, after both.

A refused compare-and-set is not always a defeat: its first answer may have been lost. `on_refusal` tells the cases
apart, for claims and renewals as well.
"""

from dataclasses import dataclass
from typing import TypeAlias

from agentbus.bus.jetstream import Bus
from agentbus.errors import WrongRevisionError
from agentbus.observability import tracing
from agentbus.protocol.ledger_entry import Entry, NoEntry, Record, settled
from agentbus.protocol.messages import Result
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.inbox import publish_result
from agentbus.tasks.ledger import LAG_TIMEOUT_S, WRITE_TIMEOUT_S, Ledger


@dataclass(frozen=True, slots=True)
class Won:
    """The ledger holds what was to be written: stored now, or before by a write whose answer was lost."""

    entry: Entry
    revision: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """The claim is still ours, but the key has moved on (a cancel request, an earlier write). Continue from here."""

    entry: Entry
    revision: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Another party has the task. Send nothing for it: a stale ack would act on the new owner's delivery."""


@dataclass(frozen=True, slots=True)
class Vacant(Lost):
    """The key holds nothing: the ledger was made anew. `revision` is what a create must expect.

    Only a party that had the task when the ledger went may create its entry.
    """

    revision: int


Verdict: TypeAlias = Won | Adopt | Lost


def on_refusal(tried: Entry, found: Record | NoEntry) -> Verdict:
    """Decide what a refused compare-and-set means, given what the key holds now.

    The id of its result names a commit. The nonce names a claim, and the counter its renewals. So a party can tell its
    own write from every other one.
    """
    if isinstance(found, NoEntry):
        return Vacant(found.revision)
    entry, revision = found.entry, found.revision
    if entry.terminal:
        ours = tried.terminal and entry.result_id and entry.result_id == tried.result_id
        return Won(entry, revision) if ours else Lost()
    if entry.claim is None or tried.claim is None or entry.claim.nonce != tried.claim.nonce:
        return Lost()
    if entry.state == tried.state and entry.claim.renewals >= tried.claim.renewals:
        return Won(entry, revision)
    return Adopt(entry, revision)


async def compare_and_set(
    ledger: Ledger,
    key: TaskKey,
    entry: Entry,
    *,
    revision: int,
    timeout_s: float = WRITE_TIMEOUT_S,
    lag_timeout_s: float = LAG_TIMEOUT_S,
    flush: bool = True,
    vacant_at_once: bool = False,
) -> Verdict:
    """Write `entry` if the key still is at `revision`; if that is refused, read the key and say what it means.

    Args:
        timeout_s: how long to wait for the server's answer to the write.
        lag_timeout_s: how long to read again where a replica has not got beyond `revision` yet.
        flush: see `Bus.publish`.
        vacant_at_once: whether to return `Vacant` as soon as a read finds nothing, which a lagging replica may say.

    Raises:
        BusUnavailableError, StreamFullError: not decided; call again.
        TooLargeError: the entry does not fit into the ledger.
        CorruptEntryError: the write was refused, and what the key holds cannot be read.
    """
    try:
        stored = await ledger.write(key, entry, revision=revision, timeout_s=timeout_s, flush=flush)
    except WrongRevisionError as refusal:
        if vacant_at_once and isinstance(found := await ledger.read(key), NoEntry):
            return Vacant(found.revision)
        return on_refusal(entry, await ledger.read_refused(key, revision, refusal, timeout_s=lag_timeout_s))
    return Won(entry, stored)


async def commit(
    ledger: Ledger,
    key: TaskKey,
    base: Entry,
    result: Result,
    *,
    revision: int,
) -> Verdict:
    """Make `result` the task's one result, on top of `base`, which the ledger has at `revision`. Publish it then.

    Raises:
        BusError: see `compare_and_set`.
    """
    return await compare_and_set(ledger, key, settled(base, result), revision=revision)


async def settle(bus: Bus, key: TaskKey, base: Entry, result: Result, *, revision: int) -> Verdict:
    """Commit `result` on top of `base`, which the ledger has at `revision`, and publish it if that is won.

    Anything but `Won` means that another party has written meanwhile, and that nothing was published: read again. (A
    worker that holds a lease commits through `Lease.commit`, which continues after `Adopt`.)

    Raises:
        BusError: see `compare_and_set` and `publish_committed`. Calling again is safe.
    """
    verdict = await commit(Ledger(bus), key, base, result, revision=revision)
    if isinstance(verdict, Won):
        await publish_committed(bus, verdict.entry)
    return verdict


async def publish_committed(bus: Bus, entry: Entry, *, flush: bool = True) -> None:
    """Put the result that a settled entry holds into the task's inbox, in the trace that is current.

    Raises:
        BusUnavailableError, StreamFullError: not decided; call again.
        PermissionDeniedError, SetupMissingError: this inbox takes nothing from this party.
    """
    assert entry.result is not None, "only a settled entry has a result to publish"
    await publish_result(bus, entry.inbox, entry.result, flush=flush)


async def publish_again(bus: Bus, record: Record) -> None:
    """Publish the result of a task that was settled before, in the trace of the run that it came from.

    The party that settled it may have died before it had published. If it had not, the server drops the repetition.

    Raises:
        BusError: see `publish_committed`.
    """
    with tracing.resumed(record.headers):
        await publish_committed(bus, record.entry)
