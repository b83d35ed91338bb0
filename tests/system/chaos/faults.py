"""The faults of a storm: their kinds, and one fault as it is planned. `ground` carries them out."""

from dataclasses import dataclass
from typing import Literal

FaultKind = Literal["kill", "stop", "term", "server", "cut", "stall", "meta", "tasks", "results", "ledger"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when, which, at whom, for how long; `odd` chooses between two variants of a kind."""

    at_s: float
    kind: FaultKind
    target: int
    length_s: float
    odd: bool
