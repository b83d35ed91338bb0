"""Names tasks that the queue has lost, as far as the bus answers in time."""

from typing import Final

import anyio

from agentbus.coordinator import Coordinator
from agentbus.errors import BusError

_TIMEOUT_S: Final = 5.0
"""Looking is an extra to an answer: with many thousands of tasks in the ledger it is left out."""
_MAX_NAMED: Final = 5


async def lost_note(coordinator: Coordinator, agent: str | None = None) -> str | None:
    """Name the tasks that are lost, of one agent or of all, and say what to do; see `Coordinator.lost_tasks`.

    None where there are none, and where the bus refuses or does not answer soon.
    """
    with anyio.move_on_after(_TIMEOUT_S):
        try:
            lost = await coordinator.lost_tasks(agent)
        except BusError:
            return None
        more = [f"and {len(lost) - _MAX_NAMED} more"] if len(lost) > _MAX_NAMED else []
        return "; ".join([*(f"{one.name} {one.loss_note}" for one in lost[:_MAX_NAMED]), *more]) or None
    return None
