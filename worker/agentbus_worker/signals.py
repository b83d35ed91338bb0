"""Turns SIGTERM and SIGINT into a request to stop: the first drains the worker, the second ends it at once."""

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stop:
    """A request to stop: `drain` lets running tasks finish, `now` ends them."""

    drain: asyncio.Event = field(default_factory=asyncio.Event)
    now: asyncio.Event = field(default_factory=asyncio.Event)

    def request(self) -> None:
        """Request a drain, or at the second call an immediate stop."""
        if self.drain.is_set():
            self.now.set()
        self.drain.set()


@contextmanager
def stop_on_signals() -> Generator[Stop]:
    """Yield a `Stop` that SIGTERM and SIGINT set, for the length of the block."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.request)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
