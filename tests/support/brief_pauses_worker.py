"""The real worker, whose pauses for a fault of its account begin with FIRST_S: `brief_pauses_worker.py FIRST_S …`."""

import sys

from agentbus_worker.__main__ import main
from agentbus_worker.pausing import pause

if __name__ == "__main__":
    first_s = float(sys.argv.pop(1))
    lengths = {**pause._LENGTHS, "account": pause._Length(first_s, 1800.0)}  # pyright: ignore[reportPrivateUsage]
    setattr(pause, "_LENGTHS", lengths)  # noqa: B010  # private, and the product has no setting for it
    setattr(pause, "_APART_S", first_s / 10)  # noqa: B010
    main()
