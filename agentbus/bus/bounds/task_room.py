"""Whether there will be room for a task that is being published, in every stream that it will need."""

from agentbus.bus.bounds.ledger_room import ledger_room
from agentbus.bus.bounds.result_room import result_room
from agentbus.bus.bounds.rooms import Rooms
from agentbus.bus.jetstream import Bus


def task_room(bus: Bus, agent: str, inbox: str, size: int) -> Rooms:
    """Begin to look for the room of a task of `size` bytes, unless that is remembered; then `check` waits for it."""
    return Rooms(bus, (ledger_room(bus, agent, size), result_room(bus, agent, inbox, size)))
