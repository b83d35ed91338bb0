"""Reads the server's clock. Clocks of machines differ and jump, so ages are measured with the clock that all share."""

from datetime import datetime

from agentbus.bus.jetstream import Bus
from agentbus.errors import PermissionDeniedError, SetupMissingError


class ServerClock:
    """Reads the time of the server from its answer about the worker's own consumer."""

    def __init__(self, bus: Bus, stream: str, durable: str) -> None:
        self._bus = bus
        self._stream = stream
        self._durable = durable

    async def now(self) -> datetime | None:
        """Return the server's time; None if this worker may not read its consumer.

        Raises:
            BusUnavailableError: no answer in time.
        """
        try:
            return (await self._bus.consumer_info(self._stream, self._durable)).server_time
        except (PermissionDeniedError, SetupMissingError):
            return None
