"""Makes the metrics of a process under a prefix of its own, and serves them if it has a port for them.

What is counted stands in `agentbus_worker.metrics` and `agentbus_mcp.metrics`. The library `prometheus-client` is an
extra; it is loaded once there is a registry.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from agentbus.version import __version__

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry as Registry
    from prometheus_client import Counter, Gauge, Histogram

_Metrics = TypeVar("_Metrics")
_Name = TypeVar("_Name", bound=str)


class MetricFactory:
    """Makes metrics in a registry; `prefix` and an underscore precede their names."""

    def __init__(self, registry: "Registry", prefix: str) -> None:
        import prometheus_client  # noqa: PLC0415  # an extra

        self._library = prometheus_client
        self._registry = registry
        self._prefix = prefix

    def build_info(self, text: str, **labels: str) -> None:
        """Make `build_info`, which has the version among its labels."""
        made = self._library.Info(f"{self._prefix}_build", text, registry=self._registry)
        made.info({**labels, "version": __version__})

    def counter(self, name: str, text: str, *labels: str) -> "Counter":
        """Make a counter; the library adds `_total` to its name."""
        return self._library.Counter(f"{self._prefix}_{name}", text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str) -> "Gauge":
        """Make a gauge."""
        return self._library.Gauge(f"{self._prefix}_{name}", text, labels, registry=self._registry)

    def gauges(self, texts: Mapping[_Name, str]) -> "dict[_Name, Gauge]":
        """Make a gauge for each name and its text."""
        return {name: self.gauge(name, text) for name, text in texts.items()}

    def histogram(self, name: str, text: str, *labels: str, buckets: Iterable[float]) -> "Histogram":
        """Make a histogram with the upper bounds `buckets`."""
        return self._library.Histogram(
            f"{self._prefix}_{name}", text, labels, buckets=tuple(buckets), registry=self._registry
        )


@contextmanager
def served_metrics(
    port: int | None,
    create: "Callable[[Registry], _Metrics]",
    *,
    without: _Metrics,
    log: logging.Logger,
    why_unhealthy: Callable[[], str] | None = None,
) -> Generator[_Metrics]:
    """Yield the metrics that `create` makes, and serve them on loopback for the length of the block.

    Without a port it yields `without` and loads nothing.

    Args:
        why_unhealthy: what `/healthz` answers with, empty for a healthy process; without it there is no `/healthz`.

    Raises:
        ConfigError: the port is taken, or the library is not installed.
    """
    if port is None:
        yield without
        return
    from agentbus.observability.metrics_endpoint import exposed, new_registry  # noqa: PLC0415  # loads an HTTP server

    registry = new_registry()
    metrics = create(registry)
    with exposed(registry, port, why_unhealthy) as url:
        log.info("metrics at %s", url)
        yield metrics
