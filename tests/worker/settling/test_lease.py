"""The lease of a running task: changes to its ledger entry are made one at a time."""

import asyncio
from typing import Any

from agentbus import Coordinator
from agentbus.bus.pull_consumer import PullConsumer
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.ids import random_token
from agentbus.protocol.ledger_entry import Claim, Entry, Record, claimed
from agentbus.protocol.messages import new_result
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.ledger import Ledger
from agentbus_worker.settling.lease import Lease


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
    found = await ledger.read(TaskKey("code", task.id))
    assert isinstance(found, Record)
    claim = Claim(worker="w", nonce=random_token(), lease_s=0.3, since=now())
    entry = claimed(found.entry, claim, attempt=1)
    revision = await ledger.write(TaskKey("code", task.id), entry, revision=found.revision)
    async with PullConsumer(bus, subjects.TASKS_STREAM, subjects.durable("code")) as puller:
        result = new_result(task.message.to_json(), result_id="result-1", status="completed")
        lease = Lease(slow, await puller.next(), TaskKey("code", task.id), entry, revision)
        async with asyncio.timeout(5), lease.renewing():
            await slow.renewal_is_under_way.wait()
            lease.stop_renewing()
            settling = asyncio.create_task(lease.commit(result))
            # The settlement goes first if nothing holds it back, as it may when both have been sent.
            await asyncio.wait({settling}, timeout=0.2)
            slow.line_is_free.set()
            await settling
    after = await ledger.read(TaskKey("code", task.id))
    assert isinstance(after, Record)
    assert (after.entry.state, after.entry.result_id) == ("completed", "result-1")
    assert not lease.lost
