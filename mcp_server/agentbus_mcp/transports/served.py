"""What a process serves over HTTP for one coordinator, whatever it is: MCP, the page, or both."""

from typing import TYPE_CHECKING, Protocol

import anyio
from anyio.abc import TaskStatus
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from agentbus_mcp.page.served_page import ServedPage


class Served(Protocol):
    """One coordinator that is served while `run` runs."""

    @property
    def page(self) -> "ServedPage | None":
        """What its page shows; None if it has none."""
        ...

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the bus."""
        ...

    @property
    def sessions(self) -> int:
        """How many sessions of clients of the 2025 era are open."""
        ...

    @property
    def streams(self) -> int:
        """How many streams of events are open."""
        ...

    @property
    def sources(self) -> int:
        """How many sources on the bus are followed."""
        ...

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until `end` is called; reports started once requests can be served."""
        ...

    def end(self) -> None:
        """Begin the shutdown."""
        ...

    def end_waits(self) -> None:
        """Have every request that waits be answered soon."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one MCP request."""
        ...
