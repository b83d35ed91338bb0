"""Counts tool calls of the MCP server over HTTP, for Prometheus. No label comes from a client or from the bus."""

import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

from agentbus.observability.metrics import MetricFactory, served_metrics
from agentbus.protocol.json_codec import object_in

if TYPE_CHECKING:
    from agentbus.observability.metrics import Registry

log = logging.getLogger("agentbus.mcp")

_DURATION_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 240)
"""From a look-up to the longest wait that a call can ask for."""
_UNKNOWN: Final = "unknown"
"""Stands for the name of every unknown tool."""

Outcome: TypeAlias = Literal["ok", "error", "crash", "cancelled"]
Reading: TypeAlias = Literal["sessions", "listen_streams", "feeds", "bus_connected"]
_READINGS: Final[dict[Reading, str]] = {
    "sessions": "Open sessions of clients of the 2025 era.",
    "listen_streams": "Open subscriptions/listen streams of clients of 2026-07-28.",
    "feeds": "What of the bus is followed for those who watch.",
    "bus_connected": "Whether there is a connection to the bus.",
}


class Call:
    """A tool call that is being served. Its outcome is `cancelled` unless the server sets another one."""

    outcome: Outcome = "cancelled"


class Metrics:
    """Counts nothing: for a server without metrics."""

    def know(self, tools: Iterable[str]) -> None:
        """Declare the tools; calls of other names count as `unknown`."""

    @contextmanager
    def call(self, tool: str) -> Generator[Call]:  # noqa: ARG002
        """Measure a call, served for the length of the block."""
        yield Call()

    def answered(self, structure: Any) -> None:
        """Count the results in the structure of an answer to a client."""

    def reconnected(self) -> None:
        """Count a restored connection to the bus."""

    def show(self, name: Reading, read: Callable[[], float]) -> None:
        """Read a value with `read` at every scrape, from another thread."""


NO_METRICS: Final = Metrics()


class PrometheusMetrics(Metrics):
    """Counts into a registry."""

    def __init__(self, registry: "Registry") -> None:
        make = MetricFactory(registry, "agentbus_mcp")
        make.build_info("The version.")
        self._calls = make.counter("tool_calls", "Calls of tools that are over.", "tool", "outcome")
        self._in_progress = make.gauge("tool_calls_in_progress", "Calls of tools that are being served.", "tool")
        self._duration = make.histogram(
            "tool_call_duration_seconds", "How long calls of tools took, waiting included.", "tool", buckets=_DURATION_S
        )
        self._delivered = make.counter("results_delivered", "Results in answers to clients.")
        self._reconnects = make.counter("bus_reconnects", "How often the connection to the bus came back.")
        self._gauges = make.gauges(_READINGS)
        self._tools: set[str] = set()

    def know(self, tools: Iterable[str]) -> None:
        """Create the series of each tool, so that they exist before the first call."""
        self._tools.update(tools)
        for tool in (*self._tools, _UNKNOWN):
            self._in_progress.labels(tool)
            self._duration.labels(tool)
            for outcome in get_args(Outcome):
                self._calls.labels(tool, outcome)

    @contextmanager
    def call(self, tool: str) -> Generator[Call]:
        """Measure a call."""
        known, call, began = tool if tool in self._tools else _UNKNOWN, Call(), time.perf_counter()
        try:
            with self._in_progress.labels(known).track_inprogress():
                yield call
        finally:
            self._duration.labels(known).observe(time.perf_counter() - began)
            self._calls.labels(known, call.outcome).inc()

    def answered(self, structure: Any) -> None:
        """Count the results in an answer."""
        results = object_in(structure).get("results")
        if isinstance(results, list):
            self._delivered.inc(len(cast("list[Any]", results)))

    def reconnected(self) -> None:
        """Add a reconnect."""
        self._reconnects.inc()

    def show(self, name: Reading, read: Callable[[], float]) -> None:
        """Read the value at every scrape."""
        self._gauges[name].set_function(read)


def metrics_on(port: int | None) -> AbstractContextManager[Metrics]:
    """Serve metrics at a port of loopback for the length of the block; count nothing without a port.

    Raises:
        ConfigError: the port is taken, or the library for it is not installed.
    """
    return served_metrics(port, PrometheusMetrics, without=NO_METRICS, log=log)
