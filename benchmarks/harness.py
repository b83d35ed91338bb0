"""What all benchmarks share: two things measured in turn, their ratio, and the promise that it is held against.

A figure alone says more about the machine than about the program. So ours and the limit are measured in turns
(A B, B A, A B, and so on), noise hits both alike, and what counts is the median of the ratios of the turns.
"""

import json
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

Measure = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Promise:
    """What the ratio (or, where there is no limit to compare with, the figure) must be."""

    kind: Literal["at least", "at most"]
    bound: float

    def kept(self, value: float) -> bool:
        return value >= self.bound if self.kind == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.kind == 'at least' else '<='} {self.bound:g}"


def at_least(bound: float) -> Promise:
    return Promise("at least", bound)


def at_most(bound: float) -> Promise:
    return Promise("at most", bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: medians of ours and of the limit, and the median, lowest and highest of the ratios."""

    benchmark: str
    what: str
    unit: str
    ours: float
    limit: float | None
    ratio: float
    low: float
    high: float
    turns: int
    promise: str
    verdict: Literal["ok", "missed", ""]

    def as_json(self) -> str:
        return json.dumps({name: _short(value) for name, value in asdict(self).items()})


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: `turns` of each pair, and how much in one of them."""

    name: str
    turns: int
    tasks: int
    samples: int
    inbox_messages: int
    idle_s: float
    pause_s: float


FULL: Final = Size("full", turns=15, tasks=400, samples=60, inbox_messages=1_000_000, idle_s=20, pause_s=1)
SHORT: Final = Size("short", turns=5, tasks=80, samples=30, inbox_messages=100_000, idle_s=10, pause_s=1)
TINY: Final = Size("tiny", turns=2, tasks=4, samples=3, inbox_messages=1_500, idle_s=0.5, pause_s=0)
SIZES: Final = {size.name: size for size in (FULL, SHORT, TINY)}


async def in_turns(ours: Measure, limit: Measure, turns: int) -> list[tuple[float, float]]:
    """Measure both `turns` times, each going first in every other turn."""
    pairs: list[tuple[float, float]] = []
    for turn in range(turns):
        if turn % 2:
            second = await limit()
            pairs.append((await ours(), second))
        else:
            first = await ours()
            pairs.append((first, await limit()))
    return pairs


async def p50(action: Measure, samples: int) -> float:
    """The median of `samples` measurements."""
    return statistics.median([await action() for _ in range(samples)])


def compared(
    benchmark: str, what: str, unit: str, pairs: Sequence[tuple[float, float]], promise: Promise | None = None
) -> Row:
    """A line about ours against the limit, from the pairs that `in_turns` has measured."""
    ratios = [ours / limit for ours, limit in pairs]
    return _row(
        benchmark,
        what,
        unit,
        statistics.median([ours for ours, _ in pairs]),
        statistics.median([limit for _, limit in pairs]),
        ratios,
        promise,
    )


def alone(benchmark: str, what: str, unit: str, value: float, promise: Promise) -> Row:
    """A line about a figure that is promised as it stands."""
    return _row(benchmark, what, unit, value, None, [value], promise)


def _row(
    benchmark: str,
    what: str,
    unit: str,
    ours: float,
    limit: float | None,
    ratios: Sequence[float],
    promise: Promise | None,
) -> Row:
    ratio = statistics.median(ratios)
    return Row(
        benchmark=benchmark,
        what=what,
        unit=unit,
        ours=ours,
        limit=limit,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        turns=len(ratios),
        promise=str(promise) if promise else "",
        verdict="" if promise is None else "ok" if promise.kept(ratio) else "missed",
    )


_HEAD: Final = f"{'':58} {'ours':>9} {'limit':>9} {'':8} {'ratio':>7}  {'(spread)':15} {'promised':9}"


def table(rows: Sequence[Row]) -> str:
    """All lines for people, by benchmark."""
    lines = [_HEAD]
    for previous, row in zip([None, *rows], rows, strict=False):
        if previous is None or previous.benchmark != row.benchmark:
            lines.append(row.benchmark)
        limit = "" if row.limit is None else f"{row.limit:.4g}"
        ratio = f"{row.ratio:7.2f}  {f'({row.low:.2f} to {row.high:.2f})':15}" if row.limit is not None else " " * 24
        lines.append(
            f"  {row.what:56} {row.ours:9.4g} {limit:>9} {row.unit:8} {ratio} {row.promise:9} {row.verdict}".rstrip()
        )
    return "\n".join(lines)


def _short(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
