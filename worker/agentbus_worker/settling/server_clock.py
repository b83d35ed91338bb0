"""The server's clock: machines differ, and a clock can jump, so what is old is judged by the one clock that all see."""

from datetime import datetime

from agentbus.bus.jetstream import Bus
from agentbus.errors import PermissionDeniedError, SetupMissingError


class ServerClock:
    """Tells the server's time by an answer about the worker's own consumer."""

    def __init__(self, bus: Bus, stream: str, durable: str) -> None:
        self._bus = bus
        self._stream = stream
        self._durable = durable

    async def now(self) -> datetime | None:
        """The server's time; None if this worker may not ask.

        Raises:
            BusUnavailableError: no answer in time.
        """
        try:
            return (await self._bus.consumer_info(self._stream, self._durable)).server_time
        except (PermissionDeniedError, SetupMissingError):
            return None
