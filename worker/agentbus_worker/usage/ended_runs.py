"""Counts a run that has ended: how it ended in the metrics, and what the agent says of it there and in its span."""

from collections.abc import Callable

from agentbus.observability import tracing
from agentbus.protocol.outcomes.run_report import Run
from agentbus_worker.formats.stream import EventStream
from agentbus_worker.metrics import Metrics
from agentbus_worker.running.command import Exit


def run_of(events: EventStream | None) -> Callable[[], Run | None]:
    """Return a function that tells what an agent has told of its run so far; None of one that prints text."""
    return lambda: events.reader.report() if events else None


def count_ended(metrics: Metrics, agent: str, ended: Exit) -> None:
    """Count a run once, whatever becomes of its task: its tokens are spent. Its span is the current one.

    A run whose command could not be ended has no duration yet.
    """
    if ended.unended is None:
        metrics.run_ended(ended.reason, ended.duration_s, ended.stdout.size)
    if ended.events is not None:
        run = ended.events.report()
        metrics.used(run)
        tracing.agent_run(agent, run)
