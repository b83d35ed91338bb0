"""SIGTERM and SIGINT as a request to stop: the first drains, the second ends at once."""

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stop:
    """How a worker is asked to end: `drain` lets running tasks finish, `now` ends them."""

    drain: asyncio.Event = field(default_factory=asyncio.Event)
    now: asyncio.Event = field(default_factory=asyncio.Event)

    def request(self) -> None:
        """Ask to stop; asking again means at once."""
        if self.drain.is_set():
            self.now.set()
        self.drain.set()


@contextmanager
def stop_on_signals() -> Generator[Stop]:
    """A `Stop` that SIGTERM and SIGINT request, for the length of the block."""
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
