"""The real worker, which takes tasks ahead on any machine: `taking_ahead_worker.py KEEP_S --config FILE`.

It calls every command quick, and keeps what it has taken ahead for KEEP_S seconds.
"""

import math
import sys

from agentbus_worker.__main__ import main
from agentbus_worker.settling import slots

if __name__ == "__main__":
    setattr(slots, "_WAIT_S", math.inf)  # noqa: B010  # private, and the product has no setting for it
    setattr(slots, "_AHEAD_S", float(sys.argv.pop(1)))  # noqa: B010
    main()
