"""The real worker, which fails while it reads some tasks: `faulty_worker.py --config FILE`.

It meets a fault of its own code, or a machine that refuses twice.
"""

from typing import Any

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import InvalidIdError
from agentbus.tasks.incoming import Incoming
from agentbus_worker.__main__ import main
from agentbus_worker.settling import claim


def fail() -> None:
    read, refusals = claim.read_delivery, [True, True]

    def failing(delivery: Delivery, agent: str, **more: Any) -> Incoming:
        if b"meet a fault" in delivery.data:
            raise ZeroDivisionError("a secret that was divided")
        if b"meet an error that does not belong here" in delivery.data:
            raise InvalidIdError("a secret that is no id")
        if b"meet a full disk" in delivery.data and refusals:
            refusals.pop()
            raise OSError(28, "No space left on device")
        return read(delivery, agent, **more)

    setattr(claim, "read_delivery", failing)  # noqa: B010


if __name__ == "__main__":
    fail()
    main()
