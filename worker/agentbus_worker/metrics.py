"""Counts what a worker does, for Prometheus. Label values are fixed here, names of models apart: none is of the bus."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from agentbus.config.worker_schema import WorkerConfig
from agentbus.observability.metrics import MetricFactory, served_metrics
from agentbus.protocol.messages import ResultStatus
from agentbus.protocol.outcomes.run_report import Run
from agentbus_worker.running.command import Reason
from agentbus_worker.usage.counters import UsageCounters

if TYPE_CHECKING:
    from agentbus.observability.metrics import Registry

log = logging.getLogger("agentbus.worker")

_DURATION_S: Final = (0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)
"""From a command that ends at once to an agent that runs for a working day."""

Event: TypeAlias = Literal[
    "takeover",
    "lease lost",
    "retry",
    "released",
    "setback",
    "stored late",
    "result refused",
    "dead letter",
    "reconnect",
]
_EVENTS: Final[dict[Event, tuple[str, str]]] = {
    "takeover": ("takeovers", "Tasks taken over from a worker that was lost."),
    "lease lost": ("leases_lost", "Tasks that another worker has taken over from this one."),
    "retry": ("retries", "Tasks queued for another attempt."),
    "released": ("tasks_given_back", "Tasks released to the bus because the worker ends."),
    "setback": (
        "tasks_set_back",
        "Tasks handed back because this machine, or the account of the agent, could not do them.",
    ),
    "stored late": (
        "results_stored_late",
        "Results that the bus did not take at once, or that an earlier worker had left on disk.",
    ),
    "result refused": ("results_refused", "Results that the bus has refused."),
    "dead letter": ("dead_letters", "Messages that were no valid tasks."),
    "reconnect": ("bus_reconnects", "How often the connection to the bus came back."),
}
Reading: TypeAlias = Literal[
    "slots_taken",
    "slots_lost",
    "tasks_held",
    "questions_open",
    "backlog_tasks",
    "outbox_entries",
    "bus_connected",
    "paused",
]
_READINGS: Final[dict[Reading, str]] = {
    "slots_taken": "Tasks whose command runs, or is about to, and lost slots.",
    "slots_lost": "Slots held by commands that could not be ended.",
    "tasks_held": "Tasks that are claimed and not settled yet.",
    "questions_open": "Questions of runs that wait for a person.",
    "backlog_tasks": "Tasks that waited behind the last one delivered; 0 while a slot is free.",
    "outbox_entries": "Outcomes on disk that the bus may not know yet.",
    "bus_connected": "Whether there is a connection to the bus.",
    "paused": "Whether the worker takes no tasks: its machine or account cannot do any, it may not claim, or by hand.",
}


class Metrics:
    """Counts nothing, for a worker that serves no metrics."""

    def count(self, event: Event) -> None:
        """Count an event."""

    def run_started(self) -> None:
        """Count the start of a command."""

    def run_ended(self, reason: Reason, duration_s: float, output_bytes: int) -> None:
        """Count the end of a command, its duration and its output."""

    def used(self, run: Run) -> None:
        """Count the tokens and the cost of a run, as far as its agent tells them."""

    def settled(self, status: ResultStatus) -> None:
        """Count a settled task."""

    def show(self, name: Reading, read: Callable[[], float]) -> None:
        """Call `read` for the value whenever the metrics are scraped, from another thread."""


class PrometheusMetrics(Metrics):
    """Counts in a registry of the Prometheus client."""

    def __init__(self, registry: "Registry", config: WorkerConfig) -> None:
        make = MetricFactory(registry, "agentbus_worker")
        make.build_info("Which agent this is, and its version.", agent=config.agent.id)
        settled = make.counter("tasks_settled", "Tasks that have their result.", "status")
        self._settled = {status: settled.labels(status) for status in get_args(ResultStatus)}
        self._started = make.counter("runs_started", "Commands started: every attempt of a task.")
        ended = make.counter("runs_ended", "Commands that have ended, by what ended them.", "reason")
        self._ended = {reason: ended.labels(reason) for reason in get_args(Reason)}
        self._duration = make.histogram("run_duration_seconds", "How long commands ran.", buckets=_DURATION_S)
        self._output = make.counter("output_bytes", "What commands have printed on standard output.")
        self._events = {event: make.counter(name, text) for event, (name, text) in _EVENTS.items()}
        self._usage = UsageCounters(registry, config.agent.id)
        make.gauge("slots", "Tasks that may run at the same time.").set(config.worker.concurrency)
        self._gauges = make.gauges(_READINGS)

    def count(self, event: Event) -> None:
        """Count an event."""
        self._events[event].inc()

    def run_started(self) -> None:
        """Count the start of a command."""
        self._started.inc()

    def run_ended(self, reason: Reason, duration_s: float, output_bytes: int) -> None:
        """Count the end of a command, its duration and its output."""
        self._ended[reason].inc()
        self._duration.observe(duration_s)
        self._output.inc(output_bytes)

    def used(self, run: Run) -> None:
        """Count the tokens and the cost of a run, as far as its agent tells them."""
        self._usage.count(run)

    def settled(self, status: ResultStatus) -> None:
        """Count a settled task."""
        self._settled[status].inc()

    def show(self, name: Reading, read: Callable[[], float]) -> None:
        """Call `read` with every scrape."""
        self._gauges[name].set_function(read)


def metrics_of(config: WorkerConfig, why_unhealthy: Callable[[], str] | None = None) -> AbstractContextManager[Metrics]:
    """The metrics of a worker, served for the length of the block if the configuration names a port for them.

    Args:
        why_unhealthy: what `/healthz` beside them answers with; empty for a healthy worker.

    Raises:
        ConfigError: the port is taken, or the library for it is not installed.
    """
    return served_metrics(
        config.metrics.port,
        lambda registry: PrometheusMetrics(registry, config),
        without=Metrics(),
        log=log,
        why_unhealthy=why_unhealthy,
    )
