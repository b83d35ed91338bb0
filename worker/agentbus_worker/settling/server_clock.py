"""The server's clock: machines differ, and a clock can jump, so what is old is judged by the one clock that all see."""

from datetime import datetime

from agentbus.bus.jetstream import Bus
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol.timestamps import parse_time


class ServerClock:
    """Tells the server's time by an answer about the worker's own consumer."""

    def __init__(self, bus: Bus, stream: str, durable: str) -> None:
        self._bus = bus
        self._info = f"CONSUMER.INFO.{stream}.{durable}"

    async def now(self) -> datetime | None:
        """The server's time; None if this worker may not ask.

        Raises:
            BusUnavailableError: no answer in time.
        """
        try:
            info = await self._bus.api(self._info)
        except (PermissionDeniedError, SetupMissingError):
            return None
        return parse_time(info["ts"]) if "ts" in info else None
