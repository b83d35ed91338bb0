"""`python -m benchmarks.scale [NAME ...]`: prints a table or JSON lines; exits with 1 if a promise is not kept."""

import sys
from collections.abc import Awaitable, Callable

from benchmarks.harness import Row
from benchmarks.program import main
from benchmarks.scale import agents, bursts, reads, waiting
from benchmarks.scale.sizes import SIZES, ScaleSize

PARTS: dict[str, Callable[[ScaleSize], Awaitable[list[Row]]]] = {
    "reads": reads.measure,
    "bursts": bursts.measure,
    "agents": agents.measure,
    "waits": waiting.measure,
}

if __name__ == "__main__":
    sys.exit(main("python -m benchmarks.scale", __doc__, PARTS, SIZES, kind="part"))
