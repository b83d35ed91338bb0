"""The command line of a set of measurements: which of them are made, how large, and how the rows are printed."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from benchmarks.harness import Row, table

_Size = TypeVar("_Size")


def main(
    prog: str,
    description: str | None,
    measurements: Mapping[str, Callable[[_Size], Awaitable[list[Row]]]],
    sizes: Mapping[str, _Size],
    *,
    kind: str,
) -> int:
    """Make the measurements that the command line names, or all; returns its exit code, 1 if a target is missed.

    Args:
        kind: what one of `measurements` is called.
    """
    names = ", ".join(measurements)
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or several of {names}")
    parser.add_argument("--size", choices=sizes, default="full", help="how much is measured (default: full)")
    parser.add_argument("--format", choices=("table", "json"), help="default: a table, in a pipe JSON lines")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - measurements.keys():
        parser.error(f"there is no {kind} {', '.join(sorted(unknown))}; there are {names}")
    as_table = arguments.format == "table" or (arguments.format is None and sys.stdout.isatty())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM ends servers and workers too
    chosen = {name: measurements[name] for name in arguments.names or measurements}
    rows = asyncio.run(_run(chosen, sizes[arguments.size], as_table=as_table))
    return int(any(row.verdict == "missed" for row in rows))


async def _run(
    chosen: Mapping[str, Callable[[_Size], Awaitable[list[Row]]]], size: _Size, *, as_table: bool
) -> list[Row]:
    """Measure one after the other. JSON lines are printed as they are measured, the table at the end."""
    rows: list[Row] = []
    for name, measure in chosen.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        for row in await measure(size):
            rows.append(row)
            if not as_table:
                print(row.as_json(), flush=True)
    if as_table:
        print(table(rows))
    return rows
