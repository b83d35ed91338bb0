"""`python -m benchmarks.scale [PART ...]`: prints a table or JSON lines; exits with 1 if a promise is not kept."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

from benchmarks.harness import Row, table
from benchmarks.scale import bursts, reads, waiting
from benchmarks.scale.sizes import SIZES, ScaleSize

PARTS: dict[str, Callable[[ScaleSize], Awaitable[list[Row]]]] = {
    "reads": reads.measure,
    "bursts": bursts.measure,
    "waits": waiting.measure,
}


async def run(names: list[str], size: ScaleSize, *, as_table: bool) -> list[Row]:
    """Measure the parts one after the other. JSON lines are printed as they are measured, the table at the end."""
    rows: list[Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        for row in await PARTS[name](size):
            rows.append(row)
            if not as_table:
                print(row.as_json(), flush=True)
    if as_table:
        print(table(rows))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or several of {', '.join(PARTS)}")
    parser.add_argument("--size", choices=SIZES, default="full", help="how much is stored (default: full)")
    parser.add_argument("--format", choices=("table", "json"), help="default: a table, in a pipe JSON lines")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    as_table = arguments.format == "table" or (arguments.format is None and sys.stdout.isatty())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM ends the servers too
    rows = asyncio.run(run(arguments.parts or list(PARTS), SIZES[arguments.size], as_table=as_table))
    return int(any(row.verdict == "missed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
