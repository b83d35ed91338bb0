"""Turns signals into a request to stop: the first drains the worker, a second one from a person ends it at once."""

import asyncio
import signal
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

_ASKING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Sent on purpose: by a service manager, or by a person at the terminal."""
_PASSING: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""The end of the session, and what tools send to programs that know a meaning for it. By default each ends a process at
once, and its commands would go on unwatched. A terminal that is closed may send SIGHUP twice, by the shell and by the
kernel, so these ask for a drain however often they come."""


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
    """Yield a `Stop` that signals set, for the length of the block.

    A signal that the worker was started with as ignored stays so, as SIGHUP under nohup; but for SIGINT, which a shell
    without job control ignores in whatever it starts in the background.
    """
    stop = Stop()
    loop = asyncio.get_running_loop()
    calls = {**dict.fromkeys(_ASKING, stop.request), **dict.fromkeys(_PASSING, stop.drain.set)}
    kept = (signal.SIGTERM, signal.SIGINT)
    calls = {
        number: call for number, call in calls.items() if number in kept or signal.getsignal(number) != signal.SIG_IGN
    }
    for number, call in calls.items():
        loop.add_signal_handler(number, call)
    try:
        yield stop
    finally:
        for number in calls:
            loop.remove_signal_handler(number)


async def unless_set(event: asyncio.Event, work: Coroutine[Any, Any, _T] | asyncio.Future[_T]) -> _T | None:
    """Return the result of `work`; if `event` is set first, cancel `work` and return None."""
    waits = asyncio.create_task(event.wait())
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        waits.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
