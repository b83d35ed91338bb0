"""The faults of a storm: their kinds, and one fault as it is planned. `storm` carries them out."""

from dataclasses import dataclass
from typing import Literal

FaultKind = Literal[
    "kill",
    "stop",
    "term",
    "server",
    "cut",
    "stall",
    "rights",
    "unread",
    "vanish",
    "meta",
    "tasks",
    "results",
    "ledger",
]
"""`rights`: the server takes a right from a worker for a while. `unread`: a pipe that a worker logs to is not read.
`vanish`: the agent command is not there. `meta` to `ledger`: the server that leads JetStream,
or one of these streams, is killed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when, which, at whom, for how long; `odd` chooses between two variants of a kind."""

    at_s: float
    kind: FaultKind
    target: int
    length_s: float
    odd: bool
