"""What befell the workers of a storm, as it really was: whom, from when to when."""

import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

TroubleKind = Literal["death", "term", "stop", "cut", "server", "refusal", "unread"]
"""`death`: it was killed. `term`: it was asked to stop. `stop`: it stood still. `cut`: its connection was cut, or stood
still. `server`: the server was away. `refusal`: the ledger took no writes of it. `unread`: its log was not read."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One of them. `whom` is a process (`code-0.3`), all processes of a worker (`code-0`), or empty for everyone."""

    kind: TroubleKind
    whom: str
    began: float
    ended: float

    def hit(self, process: str) -> bool:
        """Whether it befell a process."""
        return self.whom in ("", process, process.rpartition(".")[0])


class Troubles(list[Trouble]):
    """All troubles of a storm."""

    def at(self, kind: TroubleKind, whom: str) -> None:
        """Add one of this moment."""
        now = time.time()
        self.append(Trouble(kind, whom, now, now))

    @contextmanager
    def lasting(self, kind: TroubleKind, *whom: str) -> Generator[None]:
        """Add one for each of `whom` that lasts as long as the block."""
        began = time.time()
        try:
            yield
        finally:
            self.extend(Trouble(kind, name, began, time.time()) for name in whom)


def merged(troubles: Iterable[Trouble], *, gap_s: float) -> list[tuple[float, float]]:
    """The times that troubles cover; what lies less than `gap_s` apart counts as one."""
    spans: list[tuple[float, float]] = []
    for trouble in sorted(troubles, key=lambda one: one.began):
        if spans and trouble.began - spans[-1][1] < gap_s:
            spans[-1] = (spans[-1][0], max(spans[-1][1], trouble.ended))
        else:
            spans.append((trouble.began, trouble.ended))
    return spans
