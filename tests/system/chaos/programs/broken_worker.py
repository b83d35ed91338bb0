"""A worker that acknowledges a task when it claims it: what the storm must find. `broken_worker.py --config FILE`."""

from agentbus.bus.pull_consumer import Delivery
from agentbus_worker import worker
from agentbus_worker.__main__ import main
from agentbus_worker.settling.claim import claim
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.job import Job


async def ack_first(context: Context, delivery: Delivery) -> Job | None:
    await delivery.ack()
    return await claim(context, delivery)


if __name__ == "__main__":
    worker.claim = ack_first
    main()
