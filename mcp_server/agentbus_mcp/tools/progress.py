"""Sends progress notifications while a call waits."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
from mcp.server.mcpserver import Context

from agentbus_mcp.sanitize import clip, printable

_EVERY_S: Final = 7.0
"""Often enough for hosts that reset their time-out of a call with each notification."""


@asynccontextmanager
async def progress(ctx: Context, total_s: float) -> AsyncGenerator[Callable[[str], None]]:
    """Notify the client every few seconds, and at once of each message that the yielded function is called with.

    Progress is the time that has passed, so it always increases. A client that has not asked for it gets none.
    """
    start = anyio.current_time()
    messages, receive = anyio.create_memory_object_stream[str](float("inf"))

    async def report() -> None:
        message = "waiting"
        while True:
            with anyio.move_on_after(_EVERY_S):
                message = await receive.receive()
            await ctx.report_progress(anyio.current_time() - start, total_s or None, printable(clip(message)))

    async with messages, receive, anyio.create_task_group() as group:
        group.start_soon(report)
        yield messages.send_nowait
        group.cancel_scope.cancel()


def is_wanted(ctx: Context) -> bool:
    """Whether the client has asked for notifications of progress."""
    return "progress_token" in (ctx.request_context.meta or {})
