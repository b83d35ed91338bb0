"""Counts a run that has ended: how it ended in the metrics, and what the agent says of it there and in its span."""

from agentbus.observability import tracing
from agentbus_worker.metrics import Metrics
from agentbus_worker.running.command import Exit


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
