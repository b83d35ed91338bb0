"""How much the parts of `make scale` store, and how often they measure."""

from dataclasses import dataclass
from typing import Final

FEW: Final = 1_000
"""How many entries the ledger has that a larger one is compared with."""


@dataclass(frozen=True, slots=True)
class ScaleSize:
    """How much is stored and asked for.

    Attributes:
        entries: how many entries the larger ledger has, one stage after the other.
        turns: how often each pair is measured, `samples` times in each turn.
        lists, reads, waits: how many begin in the same instant, over one connection.
        clients: how many MCP clients list at the same time.
        wait_s: how long a wait lasts: it is under way while the others read.
    """

    name: str
    entries: tuple[int, ...]
    turns: int
    samples: int
    lists: int
    reads: int
    waits: int
    clients: int
    wait_s: float = 20.0


FULL: Final = ScaleSize("full", (100_000, 1_000_000), 7, 9, lists=300, reads=600, waits=1_100, clients=200)
SHORT: Final = ScaleSize("short", (30_000,), 5, 9, lists=300, reads=600, waits=1_100, clients=200)
TINY: Final = ScaleSize("tiny", (3_000,), 1, 3, lists=30, reads=30, waits=50, clients=5, wait_s=3.0)
SIZES: Final = {size.name: size for size in (FULL, SHORT, TINY)}
