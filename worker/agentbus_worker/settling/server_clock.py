"""The server's clock. Clocks of machines differ and jump, so ages are measured by the clock that all parties see."""

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
