"""What the pages of one coordinator show: its feed and its logs, read once for all who look."""

import asyncio
from typing import Final

from agentbus.coordinator import Coordinator
from agentbus.errors import BusUnavailableError
from agentbus.protocol.ids import random_token
from agentbus.ui.board import Board
from agentbus.ui.feed import Feed
from agentbus.ui.live_log import LiveLogs
from agentbus_mcp.bus_link import BusLink

_AWAY: Final = "the bus is away, so nothing was done. This page goes on by itself once it is back"


class ServedPage:
    """The data behind the pages of one coordinator, over the link that another object opens."""

    def __init__(self, link: BusLink) -> None:
        self.link = link
        self.feed = Feed(link, Board().read)
        self.logs = LiveLogs()
        self.boot = random_token(12)
        """Tells pages apart this process from an earlier one, whose versions were others."""
        self.ended = asyncio.Event()
        self.streams = 0

    async def run(self) -> None:
        """Read what pages show, while there are some, until cancelled; and once ahead, so that the first is quick."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed.run())
            await self.link.connected()
            await self.feed.current()

    def end(self) -> None:
        """Have every stream of events end."""
        self.ended.set()

    async def coordinator(self) -> Coordinator:
        """Return the coordinator.

        Raises:
            BusUnavailableError: there is no connection now, nor in the next moments.
            AuthenticationError, ConfigError: there will be none until an operator acts.
        """
        if self.link.up is not None:
            return self.link.up
        try:
            return await self.link.coordinator()
        except BusUnavailableError:
            raise BusUnavailableError(_AWAY) from None
