"""Follows the messages of one filter of a stream through an ordered consumer, from now on or from a time on."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, cast

import anyio

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ephemeral_consumers import Start

_CLOSE_S: Final = 1.0
"""How long deleting a consumer may take; the server deletes unused ones anyway."""


async def follow(
    bus: Bus,
    stream: str,
    subject: str,
    opened: Callable[[], None],
    notify: Callable[[Delivery | None], None],
    *,
    since: datetime | None = None,
    earlier: Callable[[Delivery], None] | None = None,
) -> None:
    """Call `notify` with the headers of each new message, until this is cancelled.

    Args:
        opened: called once no later message can be missed, and all earlier ones of `since` were passed on.
        since: begin with what was stored at this time or later, by the server's clock; None for new messages only.
        earlier: called instead of `notify` with what the stream held before this was opened.
    """
    async with open_consumer(bus, stream, subject, after=since or "new", headers_only=True) as consumer:
        if since is not None:
            async for delivery in consumer.backlog():
                (earlier or notify)(delivery)
        opened()
        while True:
            notify(await consumer.next())


@asynccontextmanager
async def open_consumer(
    bus: Bus, stream: str, subject: str, *, after: Start, headers_only: bool = False
) -> AsyncGenerator[OrderedConsumer]:
    """Open an ordered consumer that is deleted even when its reader is cancelled.

    anyio cancels what is awaited during clean-up as well, hence the shield.
    """
    consumer = OrderedConsumer(bus, stream, subject, after=after, headers_only=headers_only)
    await consumer.__aenter__()
    try:
        yield consumer
    finally:
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await consumer.__aexit__(None, None, None)


@asynccontextmanager
async def raising_the_first() -> AsyncGenerator[None]:
    """Raise the first of the errors that the tasks of a group have ended with, as it is."""
    try:
        yield
    except BaseExceptionGroup as failed:
        raise _first_of(failed) from None


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
