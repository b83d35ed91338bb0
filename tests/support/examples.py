"""The profile of hypothesis for all tests: the same examples in every run, and more of them where that is asked for."""

import atexit
import os
import shutil
import tempfile
from typing import Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis.configuration import set_hypothesis_home_dir

TIMES: Final = int(os.environ.get("AGENTBUS_TEST_EXAMPLES", "1"))
"""How many times the usual number of examples; `make attacks` sets it."""

# What hypothesis would keep for later runs is deleted at the end of this one.
_kept = tempfile.mkdtemp(prefix="hypothesis-")
atexit.register(shutil.rmtree, _kept, ignore_errors=True)
set_hypothesis_home_dir(_kept)

# A failure appears when the code or a test changes, and not at random.
settings.register_profile(
    "agentbus",
    derandomize=True,
    database=None,
    max_examples=150 * TIMES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("agentbus")


def few(count: int) -> settings:
    """Settings for a test of which each example takes a real server."""
    # To make a failing example small takes longer than the gate can wait, so the first that fails is told as it is.
    phases = [Phase.explicit, Phase.generate]
    return settings(max_examples=count * TIMES, phases=phases, suppress_health_check=[HealthCheck.too_slow])
