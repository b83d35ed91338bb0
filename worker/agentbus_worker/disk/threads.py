"""Does what touches a disk on threads of its own: one that stands still holds up neither the event loop nor the end.

A network file system may answer after minutes. Then leases have to be renewed meanwhile, and other tasks to be run.
"""

import asyncio
import errno
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self, TypeVar

log = logging.getLogger("agentbus.worker")

ANSWER_S: Final = 10.0
"""What takes longer counts as refused: a busy disk takes milliseconds, and a job that waits has a lease to keep."""
_END_S: Final = 2.0
"""How long the end of the worker waits for steps that are under way."""
_LOOK_S: Final = 0.02
_FOLDER_THREADS: Final = 4
"""How many working folders are made or removed at the same time: each may be a large tree."""
_T = TypeVar("_T")


class DiskThreads:
    """Threads that do steps in the order in which these are given; with one thread, one after the other.

    A step that was given is done, whatever becomes of its caller: what takes it back is given behind it. The threads
    are there from the beginning, because a machine may have no more of them later. They are daemons, because a process
    would wait for others at its end.
    """

    def __init__(self, name: str, count: int) -> None:
        """Start them. Without any, each step is done where it is given."""
        self._steps: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"disk: {name}", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, step: Callable[[], _T]) -> asyncio.Future[_T]:
        """Give a step; returns the future of what it returns or raises. Cancelling that does not cancel the step."""
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        if self._threads:
            self._steps.put(lambda: _do(step, done))
        else:
            with _Failure(done.set_exception):
                done.set_result(step())
        return done

    def begin(self, step: Callable[[], object]) -> None:
        """Give a step that handles its own errors, and that no caller waits for."""
        if self._threads:
            self._steps.put(lambda: _do_alone(step))
        else:
            step()

    async def run(
        self, step: Callable[[], _T], *, timeout_s: float | None = ANSWER_S, stop: asyncio.Future[None] | None = None
    ) -> _T:
        """Do a step and return what it returns. When this raises TimeoutError, or is cancelled, it is done later.

        Args:
            timeout_s: None for no limit.
            stop: once this is done, the step is not waited for.

        Raises:
            TimeoutError: the disk has not answered in time.
        """
        done = self.submit(step)
        waited: set[asyncio.Future[Any]] = {done} if stop is None else {done, stop}
        if not done.done():
            await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise TimeoutError(errno.ETIMEDOUT, "the disk does not answer")
        return done.result()

    def close(self) -> None:
        """End the threads when all steps are done."""
        for _ in self._threads:
            self._steps.put(None)

    @property
    def closed(self) -> bool:
        """Whether all threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (step := self._steps.get()) is not None:
            step()


AT_ONCE: Final = DiskThreads("none", 0)
"""Does each step where it is given, and waits for it however long it takes."""


class Disk:
    """The threads of one worker: for its `state` folder, for the `syncs` of outcomes, and for working `folders`.

    What is written to the state folder is written in order. A sync takes longer than all else, and needs no order.
    Working folders may lie on another disk than the state folder.
    """

    def __init__(self, *, threads: bool = True) -> None:
        """Start the threads; without `threads`, each step is done where it is given."""
        self.state = DiskThreads("state folder", int(threads))
        self.syncs = DiskThreads("syncs", int(threads))
        self.folders = DiskThreads("working folders", _FOLDER_THREADS * threads)

    @property
    def _groups(self) -> tuple[DiskThreads, ...]:
        return self.state, self.syncs, self.folders

    def close(self) -> None:
        """End the threads when all steps are done, without waiting for that."""
        for group in self._groups:
            group.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let all steps be done, as far as that takes no longer than two seconds."""
        self.close()
        deadline = asyncio.get_running_loop().time() + _END_S
        while not all(group.closed for group in self._groups):
            if asyncio.get_running_loop().time() > deadline:
                log.warning("a disk does not answer: what was to be written or removed there may be undone")
                return
            await asyncio.sleep(_LOOK_S)


class _Failure:
    """Gives an error of the block to a function in place of raising it."""

    def __init__(self, tell: Callable[[BaseException], None]) -> None:
        self._tell = tell

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self._tell(error)
        return True


def _do(step: Callable[[], _T], done: asyncio.Future[_T]) -> None:
    """Do a step, and tell the event loop what came of it."""
    found: list[_T] = []
    failed: list[BaseException] = []
    with _Failure(failed.append):
        found.append(step())

    def tell() -> None:
        if not done.done():
            if failed:
                done.set_exception(failed[0])
            else:
                done.set_result(found[0])

    with _Failure(lambda _: None):  # the event loop has ended, and no caller is left
        done.get_loop().call_soon_threadsafe(tell)


def _do_alone(step: Callable[[], object]) -> None:
    with _Failure(lambda error: log.error("a step on the disk has failed: %s: %s", type(error).__name__, error)):
        step()


def _retrieve(done: asyncio.Future[Any]) -> None:
    """Take the error of a step that no caller waits for any more: it is not reported as one that was forgotten."""
    if not done.cancelled():
        done.exception()
