"""`python -m benchmarks [NAME ...]`: prints a table or JSON lines; exits with 1 if a target is missed."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

from benchmarks import (
    backlog,
    handshake,
    http_clients,
    idle,
    inbox,
    latency,
    leases,
    many,
    overhead,
    publishing,
    startup,
    throughput,
    watching,
)
from benchmarks.harness import SIZES, Row, Size, table

BENCHMARKS: dict[str, Callable[[Size], Awaitable[list[Row]]]] = {
    "throughput": throughput.measure,
    "backlog": backlog.measure,
    "overhead": overhead.measure,
    "latency": latency.measure,
    "publish": publishing.measure,
    "many": many.measure,
    "watch": watching.measure,
    "inbox": inbox.measure,
    "idle": idle.measure,
    "leases": leases.measure,
    "startup": startup.measure,
    "handshake": handshake.measure,
    "http": http_clients.measure,
}


async def run(names: list[str], size: Size, *, as_table: bool) -> list[Row]:
    """Run the benchmarks one after the other. JSON lines are printed as they are measured, the table at the end."""
    rows: list[Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        for row in await BENCHMARKS[name](size):
            rows.append(row)
            if not as_table:
                print(row.as_json(), flush=True)
    if as_table:
        print(table(rows))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or several of {', '.join(BENCHMARKS)}")
    parser.add_argument("--size", choices=SIZES, default="full", help="how much is measured (default: full)")
    parser.add_argument("--format", choices=("table", "json"), help="default: a table, in a pipe JSON lines")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - BENCHMARKS.keys():
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    as_table = arguments.format == "table" or (arguments.format is None and sys.stdout.isatty())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM ends the server and the worker too
    rows = asyncio.run(run(arguments.names or list(BENCHMARKS), SIZES[arguments.size], as_table=as_table))
    return int(any(row.verdict == "missed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
