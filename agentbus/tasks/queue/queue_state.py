"""How old the queue lets tasks get, and what it holds of them: read once for all who ask in the same moment."""

from weakref import WeakKeyDictionary

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.shared_work import SharedWork

_readings: WeakKeyDictionary[Bus, SharedWork[StreamInfo | None]] = WeakKeyDictionary()


async def queue_state(bus: Bus, *, counted: bool) -> StreamInfo | None:
    """Read the state of the queue; None where this user may not, or where there is none.

    Args:
        counted: also count the messages of each subject with tasks.
    """

    async def read() -> StreamInfo | None:
        try:
            return await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=subjects.all_of("*") if counted else "")
        except (PermissionDeniedError, SetupMissingError):
            return None

    return await _readings.setdefault(bus, SharedWork[StreamInfo | None]()).do(counted, read)
