"""Recovers what dead workers of this machine have left: settles their outcomes, and hands back what they had claimed.

A claim is handed back once no process of it is left. Its lease is ended in the ledger, by compare-and-set; then its
delivery is returned, so that the server delivers the task again at once; then its record is removed. A worker that dies
in between leaves the record to the next one. What is known of another machine is left to the lease.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import consumer_of, return_to_server
from agentbus.concurrently import concurrently
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import BusError, BusUnavailableError, CorruptEntryError, StreamFullError
from agentbus.protocol import subjects
from agentbus.protocol.ids import random_token
from agentbus.protocol.ledger_entry import Record, handed_back, lease_ended
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.settle import Won, compare_and_set
from agentbus_worker.bringing_home.left_parcels import LeftParcels
from agentbus_worker.claim_records import LeftClaim, LeftClaims, left_claims
from agentbus_worker.disk.threads import AT_ONCE, DiskThreads
from agentbus_worker.identity import Place
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.orphans import Orphans
from agentbus_worker.running.unended import have_ended
from agentbus_worker.settling.decisions import EndLease, LeaveClaim, on_left_claim
from agentbus_worker.settling.outbox import Outbox
from agentbus_worker.settling.unsettled import Unsettled
from agentbus_worker.state_folder import PARCELS

log = logging.getLogger("agentbus.worker")

_RETRY_S: Final = 2.0
_AT_ONCE: Final = 16
"""How many claims are handed back at a time: three round trips each, so that a far bus does not hold up the start."""


class Predecessors:
    """The workers whose state folders this one has taken over, and the claims that they have left."""

    def __init__(self, folder: Path, disk: DiskThreads = AT_ONCE) -> None:
        """Read the records of claims in `folder`. Those of another machine are removed. `disk` writes the others."""
        self._here = Place.here()
        self._state, self._disk = folder.parent, disk
        self._orphans = Orphans({}, all_found=False)
        self._files: list[LeftClaims] = []
        for file in left_claims(folder, disk):
            if self._here.sees(file.place) or self._here.was_restarted_since(file.place):
                self._files.append(file)
            else:
                if file.claims:
                    log.info("%d tasks of a worker of another machine are left to their leases", len(file.claims))
                file.remove()

    @property
    def workers(self) -> list[str]:
        """The tokens of the dead workers whose processes may still run."""
        return [file.worker for file in self._files if self._here.sees(file.place)]

    def ended(self, orphans: Orphans) -> None:
        """Tell what has become of their processes."""
        self._orphans = orphans

    async def recover(self, bus: Bus, config: WorkerConfig, outbox: Outbox, unsettled: Unsettled) -> bool:
        """Bring home what is left, settle the outcomes, and hand back the claims without any; until each is taken."""
        parcels = LeftParcels(bus, self._state / PARCELS, self._state.parent, self._disk)
        await _until_stored(parcels.settle, "what earlier runs have left cannot be brought home yet")
        await _until_stored(unsettled.settle_left, "the outbox cannot be delivered yet")
        trouble = "what an earlier worker was at work on cannot be handed back yet"
        await _until_stored(lambda: self.hand_back(bus, config, outbox), trouble)
        return True

    async def keep_on(self, bus: Bus, config: WorkerConfig, outbox: Outbox) -> None:
        """Hand back what could not be handed back at the start, as soon as its processes have ended after all."""
        while any(file.claims for file in self._files):
            await asyncio.sleep(_RETRY_S)
            with suppress(BusUnavailableError, StreamFullError, TimeoutError):  # the last one is that of a disk
                await self.hand_back(bus, config, outbox)

    async def hand_back(self, bus: Bus, config: WorkerConfig, outbox: Outbox) -> None:
        """Hand back each claim of which no process is left.

        Raises:
            BusUnavailableError, StreamFullError, TimeoutError: not all are handed back; calling again is safe.
        """

        async def one(left: tuple[LeftClaims, LeftClaim]) -> None:
            file, claim = left
            if _is_of(claim, config) and await outbox.of_claim(claim.key, claim.nonce) is None:
                await _hand_back(bus, claim)
            file.forget(claim)

        ended = [(file, claim) for file in self._files for claim in file.claims if self._has_ended(file, claim)]
        await concurrently(ended, one, at_once=_AT_ONCE)
        for file in self._files:
            if not file.claims:
                file.remove()
        self._files = [file for file in self._files if file.claims]

    def _has_ended(self, file: LeftClaims, claim: LeftClaim) -> bool:
        """Whether it is certain that no process of a claim is left."""
        if self._here.was_restarted_since(file.place):
            return True
        left = [task for task, unended in self._orphans.left.items() if not have_ended(unended.pids)]
        known = [claim.key for file in self._files for claim in file.claims]
        return (
            self._orphans.all_found
            and not any(task.may_be(claim.task_id, claim.key.owner) for task in left)
            and all(any(task.may_be(key.id, key.owner) for key in known) for task in left)
        )


async def _until_stored(work: Callable[[], Awaitable[None]], trouble: str) -> None:
    while True:
        try:
            return await work()
        except (BusUnavailableError, StreamFullError, TimeoutError) as error:  # the last one is that of a disk
            log.warning("%s: %s", trouble, error)
            await asyncio.sleep(_RETRY_S)


def _is_of(claim: LeftClaim, config: WorkerConfig) -> bool:
    """Whether a claim is one of this agent, and its delivery of one of the consumers of this agent."""
    durables = (config.durable, subjects.durable_of_parties(config.agent.id))
    return claim.agent == config.agent.id and consumer_of(claim.reply) in [
        (config.nats.stream, durable) for durable in durables
    ]


async def _hand_back(bus: Bus, claim: LeftClaim) -> None:
    task_log = TaskLog(claim.task_id)
    try:
        if await _free(bus, claim):
            await return_to_server(bus, claim.reply)
            await Ledger(bus).read(claim.key)  # the server has got what was sent before, once it has answered this
            task_log.info("its worker has died; handed back for another attempt")
    except (BusUnavailableError, StreamFullError):
        raise
    except (BusError, CorruptEntryError) as error:
        task_log.warning("its worker has died, and it could not be handed back (%s); its lease expires instead", error)


async def _free(bus: Bus, claim: LeftClaim) -> bool:
    """End the lease of a claim if the ledger still has it; returns whether the delivery is to be returned."""
    ledger = Ledger(bus)
    found = await ledger.read(claim.key)
    while isinstance(decision := on_left_claim(found, nonce=claim.nonce), EndLease):
        if await _ends_lease(ledger, claim, decision.record):
            return True
        found = await ledger.read_newer(claim.key, decision.record.revision)
    return not isinstance(decision, LeaveClaim)


async def _ends_lease(ledger: Ledger, claim: LeftClaim, record: Record) -> bool:
    entry = handed_back(record.entry) if claim.released else lease_ended(record.entry, random_token())
    return isinstance(await compare_and_set(ledger, claim.key, entry, revision=record.revision), Won)
