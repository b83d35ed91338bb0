"""`python -m benchmarks [NAME ...]`: prints a table or JSON lines; exits with 1 if a target is missed."""

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
    page,
    publishing,
    startup,
    throughput,
    watching,
    work,
)
from benchmarks.harness import SIZES, Row, Size
from benchmarks.program import main

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
    "work": work.measure,
    "page": page.measure,
}

if __name__ == "__main__":
    sys.exit(main("python -m benchmarks", __doc__, BENCHMARKS, SIZES, kind="benchmark"))
