"""The lease of a running task: changes to its ledger entry are made one at a time."""

import asyncio
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.pull_consumer import Delivery, PullConsumer
from agentbus.bus.setup import set_up
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.ids import random_token
from agentbus.protocol.ledger_entry import Claim, Entry, Record, claimed
from agentbus.protocol.messages import new_result
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.ledger import Ledger
from agentbus_worker.settling.lease import Lease
from support.delivered import unrecorded
from support.harness import BOUND_S, eventually


class _SlowRenewals(Ledger):
    """The ledger, with a line on which renewals take long to get through."""

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self.renewal_is_under_way = asyncio.Event()
        self.line_is_free = asyncio.Event()

    async def write(self, key: TaskKey, entry: Entry, *, revision: int, **options: Any) -> int:
        if entry.state == "working":
            self.renewal_is_under_way.set()
            await self.line_is_free.wait()
        return await super().write(key, entry, revision=revision, **options)


async def test_a_renewal_in_progress_does_not_undo_the_settlement(coordinator: Coordinator):
    bus = coordinator.bus
    await set_up(bus, ["code"])
    task = await coordinator.publish("code", "say:hi", task_type="test")
    ledger, slow = Ledger(bus), _SlowRenewals(bus)
    key = TaskKey("code", task.id)
    found = await ledger.read(key)
    assert isinstance(found, Record)
    claim = Claim(worker="w", nonce=random_token(), lease_s=0.3, since=now())
    entry = claimed(found.entry, claim, attempt=1)
    revision = await ledger.write(key, entry, revision=found.revision)
    async with PullConsumer(bus, subjects.TASKS_STREAM, subjects.durable("code")) as puller:
        result = new_result(task.message.to_json(), result_id="result-1", status="completed")
        lease = Lease(slow, await puller.next(), key, entry, revision, unrecorded(key))
        async with asyncio.timeout(BOUND_S), lease:
            await slow.renewal_is_under_way.wait()
            lease.stop_renewing()
            settling = asyncio.create_task(lease.commit(result))
            # The settlement goes first if nothing holds it back, as it may when both have been sent.
            await asyncio.wait({settling}, timeout=0.2)
            slow.line_is_free.set()
            await settling
    after = await ledger.read(key)
    assert isinstance(after, Record)
    assert (after.entry.state, after.entry.result_id) == ("completed", "result-1")
    assert not lease.lost


async def test_a_delivery_is_held_while_renewals_are_refused_for_less_than_a_lease(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    bus = coordinator.bus
    await set_up(bus, ["code"])
    task = await coordinator.publish("code", "say:hi", task_type="test")
    ledger = Ledger(bus)
    key = TaskKey("code", task.id)
    found = await ledger.read(key)
    assert isinstance(found, Record)
    entry = claimed(found.entry, Claim(worker="w", nonce=random_token(), lease_s=0.6, since=now()), attempt=1)
    revision = await ledger.write(key, entry, revision=found.revision)
    held, refused = 0, 0

    async def in_progress(_: Delivery) -> None:
        nonlocal held
        held += 1

    async def write(*_: Any, **__: Any) -> int:
        nonlocal refused
        refused += 1
        raise PermissionDeniedError("no right to the ledger")

    monkeypatch.setattr(Delivery, "in_progress", in_progress)
    monkeypatch.setattr(Ledger, "write", write)
    async with PullConsumer(bus, subjects.TASKS_STREAM, subjects.durable("code")) as puller:
        lease = Lease(ledger, await puller.next(), key, entry, revision, unrecorded(key))
        async with lease:
            await eventually(lambda: refused > held > 0, "held for a lease, and then no more")
    assert not lease.lost
