"""The real worker, which prefetches tasks on any machine: `prefetching_worker.py KEEP_S --config FILE`.

It treats every command as quick, keeps prefetched tasks for KEEP_S seconds, and says so when a task is to end.
"""

import math
import sys

from agentbus_worker.__main__ import main
from agentbus_worker.settling import slots
from agentbus_worker.settling.lease import Lease

interrupt = Lease.interrupt


def tell_and_interrupt(lease: Lease) -> None:
    print("a task is to end", file=sys.stderr, flush=True)
    interrupt(lease)


if __name__ == "__main__":
    setattr(slots, "_QUICK_WAIT_S", math.inf)  # noqa: B010  # private, and the product has no setting for it
    setattr(slots, "_MAX_WAIT_S", float(sys.argv.pop(1)))  # noqa: B010
    setattr(Lease, "interrupt", tell_and_interrupt)  # noqa: B010
    main()
