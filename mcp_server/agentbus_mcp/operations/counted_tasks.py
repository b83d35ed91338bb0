"""Waits until the consumers of agents count the tasks that the stream holds.

The server acknowledges a stored message a moment before it counts it for the consumer. Without this wait, the backlog
in the answer of `publish_task` could leave out the task that the call has just published.
"""

from collections.abc import Collection
from typing import Any, Final

from agentbus.bus.retry import deadline_after, retry_until
from agentbus.bus.setup import consumers_of
from agentbus.coordinator import Coordinator
from agentbus.errors import BusError
from agentbus.protocol import subjects

_TIMEOUT_S: Final = 1.0
"""The server counts within milliseconds; a count that stays behind must not keep the answer back."""
_PAUSE_S: Final = 0.01


async def wait_until_counted(coordinator: Coordinator, agents: Collection[str]) -> None:
    """Wait until the tasks of `agents` that are stored now are counted, or were settled meanwhile; not for long.

    Returns at once where the bus does not answer, or does not permit to ask.
    """
    try:
        stored = await _stored(coordinator, agents)
        async for _ in retry_until(deadline_after(_TIMEOUT_S), pause_s=_PAUSE_S):
            counted = await _counted(coordinator)
            if all(counted[agent] >= stored[agent] for agent in stored.keys() & counted.keys()):
                return
            # A worker may have settled some of them, which lowers both numbers.
            now = await _stored(coordinator, agents)
            stored = {agent: min(stored[agent], now[agent]) for agent in stored}
    except BusError:
        return


async def _stored(coordinator: Coordinator, agents: Collection[str]) -> dict[str, int]:
    """How many tasks of each agent the stream holds, delivered or not."""
    request = {"subjects_filter": subjects.TASK_SUBJECTS}
    info = await coordinator.bus.api(f"STREAM.INFO.{subjects.TASKS_STREAM}", request)
    counts: dict[str, Any] = info["state"].get("subjects") or {}
    return {agent: int(counts.get(subjects.tasks(agent), 0)) for agent in agents}


async def _counted(coordinator: Coordinator) -> dict[str, int]:
    """How many tasks the consumer of each agent counts, delivered or not."""
    consumers = await consumers_of(coordinator.bus, subjects.TASKS_STREAM)
    counted: dict[str, int] = {}
    for consumer in consumers:
        agent = subjects.agent_of(str(consumer["config"].get("filter_subject")), "tasks")
        if agent is not None:
            counted[agent] = consumer["num_pending"] + consumer["num_ack_pending"]
    return counted
