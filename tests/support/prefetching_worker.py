"""The real worker, which prefetches tasks on any machine: `prefetching_worker.py KEEP_S --config FILE`.

It treats every command as quick, and keeps prefetched tasks for KEEP_S seconds.
"""

import math
import sys

from agentbus_worker.__main__ import main
from agentbus_worker.settling import slots

if __name__ == "__main__":
    setattr(slots, "_QUICK_WAIT_S", math.inf)  # noqa: B010  # private, and the product has no setting for it
    setattr(slots, "_MAX_WAIT_S", float(sys.argv.pop(1)))  # noqa: B010
    main()
