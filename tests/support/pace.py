"""Time limits of tests, in proportion to how fast the machine is at this moment."""

import subprocess
import sys
import time

_QUIET_START_S = 0.03
"""More than an empty Python takes from its start to its end where little else runs."""
_LONGEST_S = 30.0


def at_this_pace(quiet_s: float) -> float:
    """Return a time limit, `quiet_s` on a quiet machine and longer on a busy one; rounded, as it stands in messages.

    It is for limits that are to be reached, but not before something has begun, such as a time-out of a command that
    prints first: there is no event to wait for. A wait that should never be as long takes `harness.BOUND_S`.
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
    share = (time.monotonic() - began) / _QUIET_START_S
    return round(max(quiet_s, min(quiet_s * share, _LONGEST_S)), 1)
