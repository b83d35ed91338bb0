"""Says on standard error that a task waits, where no worker of its agent takes one now."""

from typing import TYPE_CHECKING

from agentbus.cli import lazy, output
from agentbus.errors import BusError

if TYPE_CHECKING:
    from agentbus.coordinator import Coordinator


async def has_no_worker(bus: "Coordinator", agent: str) -> bool:
    """Whether no worker of the agent is alive, as far as this user may know."""
    try:
        return not await bus.agents(agent)
    except BusError:
        return False


async def warn_without_worker(bus: "Coordinator", agent: str, *, only_paused: bool = False) -> None:
    """Say so if no worker of the agent is alive, all are paused, or an operator has paused the agent.

    Credentials that may not read presence are no reason to fail: the task is on the bus.

    Args:
        only_paused: say nothing where no worker is alive.
    """
    try:
        workers = await bus.agents(agent)
        by_hand = (await lazy.agent_pauses.operator_pauses(bus.bus)).get(agent)
    except BusError:
        return
    if by_hand is not None:
        output.remark(f"the agent {agent} is {by_hand.in_words}; the task waits: agentbus agent resume {agent}")
    elif not workers:
        if not only_paused:
            output.remark(f"no worker of the agent {agent} is alive now; the task waits for one, for up to 7 days")
    elif all(worker.paused for worker in workers):
        output.remark(f"all workers of the agent {agent} are paused, and the task waits: {workers[0].troubles[0]}")
