"""Measures a figure and its limit in turns, and compares the median of their ratios with a target.

A single figure depends on the machine more than on the program. So both are measured alternately (A B, B A, A B, and
so on): noise affects both in the same way, and the median of the ratios counts.
"""

import json
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

Measure = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Target:
    """The bound for a ratio, or for the figure itself where there is no limit to compare with."""

    kind: Literal["at least", "at most"]
    bound: float

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.kind == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.kind == 'at least' else '<='} {self.bound:g}"


def at_least(bound: float) -> Target:
    return Target("at least", bound)


def at_most(bound: float) -> Target:
    return Target("at most", bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the medians of our figure and of the limit, and the median, lowest and highest ratio."""

    benchmark: str
    what: str
    unit: str
    ours: float
    limit: float | None
    ratio: float
    low: float
    high: float
    turns: int
    target: str
    verdict: Literal["ok", "missed", ""]

    def as_json(self) -> str:
        return json.dumps({name: _short(value) for name, value in asdict(self).items()})


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: `turns` of each pair, and the amount in each turn."""

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


async def interleaved(ours: Measure, limit: Measure, turns: int) -> list[tuple[float, float]]:
    """Measure both `turns` times; each of them is first in every other turn."""
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
    """Return the median of `samples` measurements."""
    return statistics.median([await action() for _ in range(samples)])


def compared(
    benchmark: str, what: str, unit: str, pairs: Sequence[tuple[float, float]], target: Target | None = None
) -> Row:
    """Make a row that compares our figure with the limit, from the pairs that `interleaved` measured."""
    ratios = [ours / limit for ours, limit in pairs]
    return _row(
        benchmark,
        what,
        unit,
        statistics.median([ours for ours, _ in pairs]),
        statistics.median([limit for _, limit in pairs]),
        ratios,
        target,
    )


def absolute(benchmark: str, what: str, unit: str, value: float, target: Target) -> Row:
    """Make a row for a figure that has no limit to compare with."""
    return _row(benchmark, what, unit, value, None, [value], target)


def _row(
    benchmark: str,
    what: str,
    unit: str,
    ours: float,
    limit: float | None,
    ratios: Sequence[float],
    target: Target | None,
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
        target=str(target) if target else "",
        verdict="" if target is None else "ok" if target.is_met(ratio) else "missed",
    )


_HEAD: Final = f"{'':58} {'ours':>9} {'limit':>9} {'':8} {'ratio':>7}  {'(spread)':15} {'target':9}"


def table(rows: Sequence[Row]) -> str:
    """Format the rows for a terminal, grouped by benchmark."""
    lines = [_HEAD]
    for previous, row in zip([None, *rows], rows, strict=False):
        if previous is None or previous.benchmark != row.benchmark:
            lines.append(row.benchmark)
        limit = "" if row.limit is None else f"{row.limit:.4g}"
        ratio = f"{row.ratio:7.2f}  {f'({row.low:.2f} to {row.high:.2f})':15}" if row.limit is not None else " " * 24
        lines.append(
            f"  {row.what:56} {row.ours:9.4g} {limit:>9} {row.unit:8} {ratio} {row.target:9} {row.verdict}".rstrip()
        )
    return "\n".join(lines)


def _short(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
