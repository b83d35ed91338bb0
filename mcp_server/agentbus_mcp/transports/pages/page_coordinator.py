"""One coordinator that has a page and nothing else, as `agentbus ui` serves it."""

import anyio
from anyio.abc import TaskStatus
from starlette.types import Receive, Scope, Send

from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.page.served_page import ServedPage
from agentbus_mcp.transports.sign_in import challenge


class PageCoordinator:
    """Runs the link and what the page reads over it, while `run` runs."""

    def __init__(self, link: BusLink) -> None:
        self._link = link
        self._ended = anyio.Event()
        self._page = ServedPage(link)

    @property
    def page(self) -> ServedPage | None:
        """What its page shows."""
        return self._page

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the bus."""
        return self._link.up is not None

    @property
    def sessions(self) -> int:
        """None: there is no MCP here."""
        return 0

    @property
    def sources(self) -> int:
        """None: there is no MCP here."""
        return 0

    @property
    def streams(self) -> int:
        """How many streams of events are open."""
        return self._page.streams

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the connection and what is read over it until `end` is called."""
        async with self._link.open(), anyio.create_task_group() as group:
            group.start_soon(self._page.run)
            task_status.started()
            await self._ended.wait()
            self._page.end()
            group.cancel_scope.cancel()

    def end(self) -> None:
        """Begin the shutdown."""
        self._ended.set()

    def end_waits(self) -> None:
        """Have every stream of events end."""
        self._page.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request: there is no MCP here."""
        await challenge(invalid=True)(scope, receive, send)
