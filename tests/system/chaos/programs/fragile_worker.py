"""The real worker, which now and then dies at the critical points of a settlement: `fragile_worker.py …`.

A kill from outside hits these moments of a millisecond or two once in a thousand times.
"""

import os
import random
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeAlias

from agentbus.bus.pull_consumer import Delivery
from agentbus.protocol import timestamps
from agentbus_worker.__main__ import main
from agentbus_worker.running.process_tree import Children, Run
from agentbus_worker.settling import job
from agentbus_worker.settling.lease import Lease
from agentbus_worker.settling.outbox import Outbox

CHANCE = 0.02
_P = ParamSpec("_P")


def die_perhaps(where: str) -> None:
    if random.random() < CHANCE:
        # In one piece, and not to standard error: that may stand still.
        os.write(sys.stdout.fileno(), f"{timestamps.now()} pid {os.getpid()} dies {where}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


Step: TypeAlias = Callable[_P, Coroutine[Any, Any, None]]


def mortal(real: Step[_P], what: str) -> Step[_P]:
    """The same, with a chance to die right before and right after."""

    async def step(*args: _P.args, **kwargs: _P.kwargs) -> None:
        die_perhaps(f"before {what}")
        await real(*args, **kwargs)
        die_perhaps(f"after {what}")

    return step


def make_mortal() -> None:
    for owner, name in ((Outbox, "put"), (Lease, "commit"), (job, "publish_committed"), (Delivery, "ack")):
        setattr(owner, name, mortal(getattr(owner, name), name))
    started = Children.started

    def start(self: Children, run: Run) -> None:
        die_perhaps("before the process is on record")
        started(self, run)

    Children.started = start


if __name__ == "__main__":
    make_mortal()
    main()
