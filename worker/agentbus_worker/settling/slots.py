"""Bounds how many commands a worker runs at once, and how many tasks it prefetches for them."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.command import Child
from agentbus_worker.running.unended import Unended
from agentbus_worker.timers import Timers

_MIN_PREFETCH: Final = 8
"""How many tasks are prefetched at least: one pull request for many costs hardly more than one for a single task."""
_QUICK_WAIT_S: Final = 0.1
"""How long a prefetched task should wait for its slot. Commands that are short enough for that are quick."""
_MAX_WAIT_S: Final = 0.2
"""How long it may wait before it is released for other workers."""

_State: TypeAlias = Literal["waiting", "running", "settling", "done"]


class Slots:
    """Bounds how many commands run at once. A task is taken only if there is a slot for it, or if it is prefetched.

    Tasks are prefetched while commands are quick and there is a backlog: they are claimed early, so that the next
    command starts as soon as one ends. For agents, which take minutes, nothing is prefetched.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._prefetch_limit = max(count, _MIN_PREFETCH)
        self.backlog = 0  # how many tasks the server had behind the last delivery
        self._count_in: dict[_State, int] = {"waiting": 0, "running": 0, "settling": 0, "done": 0}
        self._queue: deque[Reservation] = deque()
        self._room: asyncio.Future[None] | None = None
        self._quick = False
        self._closed = self._paused = False
        self.timers = Timers()
        self.lost = 0
        """How many slots are held by commands that have been given up because they could not be ended."""

    @property
    def running(self) -> int:
        """The number of slots in use, the lost ones included."""
        return self._count_in["running"] + self.lost

    @property
    def in_words(self) -> str:
        """How many slots are in use, for people."""
        lost = f", {self.lost} of them lost" if self.lost else ""
        return f"takes tasks: {self.running} of {self.count} slots in use{lost}"

    @property
    def prefetching(self) -> bool:
        """Whether tasks are prefetched: commands are quick, and there is a backlog."""
        return self._quick and self.backlog > 0

    async def wait_for_room(self) -> int:
        """Wait until another task may be taken; returns how many to prefetch, or 0 for a single task.

        No more tasks may wait for their settlement than for a slot: while the bus stores no results, no task is taken.
        """
        while True:
            if self._count_in["settling"] <= self.count + self._prefetch_limit:
                taken = self._count_in["waiting"] + self.running
                prefetch = self.count + self._prefetch_limit - taken if self.prefetching else 0
                if prefetch > self._prefetch_limit // 2:
                    return prefetch
                if taken < self.count:
                    return 0
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def reserve(self) -> "Reservation":
        """Make the reservation of a task that was taken; leave its block when the task is done."""
        self._count_in["waiting"] += 1
        return Reservation(self)

    def close(self) -> None:
        """Refuse all slots from now on, because the worker stops."""
        self._closed = True
        self.pause()

    def pause(self) -> None:
        """Refuse all slots until `resume`: what was taken ahead goes back to the bus."""
        self._paused = True
        while self._queue:
            self._queue.popleft().refuse()

    def resume(self) -> None:
        """Grant slots again."""
        self._paused = False

    # -- only for reservations ----------------------------------------------------------------------------------

    def request_slot(self, reservation: "Reservation") -> None:
        """Grant a slot to a reservation, now or in its turn."""
        if self._closed or self._paused:
            reservation.refuse()
        elif self.running < self.count:
            reservation.grant()
        else:
            self._queue.append(reservation)

    def time_out(self, reservation: "Reservation") -> None:
        """Refuse a reservation that has waited too long, and stop prefetching: commands are not quick any more."""
        if reservation in self._queue:  # otherwise it was granted a slot at the same moment
            self._quick = False
            self._queue.remove(reservation)
            reservation.refuse()

    def withdraw(self, reservation: "Reservation") -> None:
        """Remove a reservation whose task is cancelled from the queue."""
        if reservation in self._queue:
            self._queue.remove(reservation)

    def ended(self, ran_s: float) -> None:
        """Decide from the run time of a command whether commands are quick."""
        self._quick = ran_s * self._prefetch_limit < _QUICK_WAIT_S * self.count

    def lose(self) -> None:
        """Count a slot as lost; nothing is prefetched for fewer slots than there seem to be."""
        self.lost += 1
        self._quick = False

    def regain(self) -> None:
        """Take back a slot that was lost."""
        self.lost -= 1
        self._grant_next()
        self._tell_of_room()

    def count_move(self, before: _State, after: _State) -> None:
        """Count the change of a reservation's state, and grant a slot that became free."""
        self._count_in[before] -= 1
        self._count_in[after] += 1
        self._grant_next()
        self._tell_of_room()

    def _grant_next(self) -> None:
        if self._queue and self.running < self.count:
            self._queue.popleft().grant()

    def _tell_of_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Reservation:
    """The claim of one task on a slot, from its delivery to its end."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._state: _State = "waiting"
        self._granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        return self

    @property
    def prefetching(self) -> bool:
        """See `Slots.prefetching`."""
        return self._slots.prefetching

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._move("done")

    async def acquire(self) -> bool:
        """Wait for a slot; returns False if there is none in time, or the worker stops: release the task then."""
        self._slots.request_slot(self)
        if self._granted.done():
            return self._granted.result()
        timer = self._slots.timers.call_later(_MAX_WAIT_S, lambda: self._slots.time_out(self))
        try:
            return await self._granted
        except asyncio.CancelledError:
            self._slots.withdraw(self)
            raise
        finally:
            timer.cancel()

    def ended(self, ran_s: float = math.inf) -> bool:
        """Free the slot: the command has ended after `ran_s`, or was not started. The task is being settled.

        Returns whether another task may have got the slot, which was prefetched for it.
        """
        if self._state == "running":
            self._slots.ended(ran_s)
            self._move("settling")
        return self._slots.prefetching

    def lose(self) -> Callable[[], None]:
        """Settle the task, and keep its slot: its command could not be ended. Returns what gives the slot back."""
        self._slots.lose()
        self._move("settling")
        return self._slots.regain

    def grant(self) -> None:
        """Give it a slot."""
        self._move("running")
        self._granted.set_result(True)

    def refuse(self) -> None:
        """Tell it that there is no slot."""
        self._granted.set_result(False)

    def _move(self, state: _State) -> None:
        before, self._state = self._state, state
        self._slots.count_move(before, state)


def lose_slot(reservation: Reservation, child: Child, unended: Unended, log: TaskLog) -> None:
    """Keep the slot taken for as long as the command lives; log its processes, and later their end."""
    regain = reservation.lose()

    def gone() -> None:
        regain()
        log.info("its command has ended after all; its slot is free again")

    child.on_gone(gone)
    pids = ", ".join(map(str, unended.pids))
    log.error("its command could not be ended: it %s; its slot is lost until it ends", unended.why, pids=pids)
