"""The real worker, whose first attempt to queue a task again comes too late: `overtaken_worker.py --config FILE`.

Another worker's claim is in the ledger right before it.
"""

from typing import Any

from agentbus.protocol.ledger_entry import Claim, Entry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.ledger import Ledger
from agentbus_worker.__main__ import main


def overtake() -> None:
    write, waiting = Ledger.write, [True]

    async def overtaken(self: Ledger, key: TaskKey, entry: Entry, *, revision: int, **more: Any) -> int:
        if entry.state == "queued" and waiting:
            waiting.clear()
            found = await self.read(key)
            assert isinstance(found, Record)
            other = Claim(worker="other", nonce="other", lease_s=30, since=now())
            changes = {"claim": other, "attempt": 2}
            await write(self, key, found.entry.model_copy(update=changes), revision=found.revision)
        return await write(self, key, entry, revision=revision, **more)

    setattr(Ledger, "write", overtaken)  # noqa: B010


if __name__ == "__main__":
    overtake()
    main()
