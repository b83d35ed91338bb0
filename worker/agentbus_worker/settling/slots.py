"""The slots of a worker: how many commands run at once, and how many tasks may be taken for them."""

import asyncio
import math
from collections import deque
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

_FETCH: Final = 8
"""So many tasks are taken ahead at least: one request for all of them costs hardly more than one for each."""
_WAIT_S: Final = 0.1
"""How long a task that is taken ahead should wait for its slot. Commands for which that holds are quick."""
_AHEAD_S: Final = 0.2
"""How long it waits at the most before others get it."""

_State: TypeAlias = Literal["ahead", "running", "settling", "over"]


class Slots:
    """Bound how many commands run at once, and take a task only if there is a slot for it.

    While commands are over in no time and others wait in the backlog, some tasks are taken ahead: they are claimed, and
    the next command is ready when the last one ends. Agents take minutes; then nothing is taken ahead.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._most_ahead = max(count, _FETCH)
        self.backlog = 0  # how many tasks waited behind the last one
        self._count_in: dict[_State, int] = {"ahead": 0, "running": 0, "settling": 0, "over": 0}
        self._queue: deque[Reservation] = deque()
        self._room: asyncio.Future[None] | None = None
        self._quick = False
        self._closed = False

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return self._count_in["running"]

    @property
    def in_a_row(self) -> bool:
        """Whether one quick command follows another: then tasks are taken ahead, and no caller waits for one result."""
        return self._quick and self.backlog > 0

    async def room(self) -> int:
        """Wait until there is a slot for another task, or until some may be taken ahead: returns how many, or 0.

        No more tasks may wait to be settled than to be run: a bus that takes no results is given no more work.
        """
        while True:
            if self._count_in["settling"] <= self.count + self._most_ahead:
                taken = self._count_in["ahead"] + self.running
                ahead = self.count + self._most_ahead - taken if self.in_a_row else 0
                if ahead > self._most_ahead // 2:
                    return ahead
                if taken < self.count:
                    return 0
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def take(self) -> "Reservation":
        """Reserve for a task that has been taken; leave the reservation when the task is over."""
        self._count_in["ahead"] += 1
        return Reservation(self)

    def close(self) -> None:
        """Start no command any more."""
        self._closed = True
        while self._queue:
            self._queue.popleft().refuse()

    # -- called by reservations alone ---------------------------------------------------------------------------

    def ask(self, reservation: "Reservation") -> None:
        """Grant a slot to a reservation now, or when it is its turn."""
        if self._closed:
            reservation.refuse()
        elif self.running < self.count:
            reservation.grant()
        else:
            self._queue.append(reservation)

    def give_up(self, reservation: "Reservation") -> None:
        """Refuse a reservation that has waited too long: the commands are not quick any more."""
        if reservation in self._queue:  # it may have been granted one in this very moment
            self._quick = False
            self._queue.remove(reservation)
            reservation.refuse()

    def forget(self, reservation: "Reservation") -> None:
        """Drop a reservation that does not wait any more."""
        if reservation in self._queue:
            self._queue.remove(reservation)

    def ended(self, ran_s: float) -> None:
        """Note how long a command has run: whether commands are quick."""
        self._quick = ran_s * self._most_ahead < _WAIT_S * self.count

    def moved(self, before: _State, after: _State) -> None:
        """Count a reservation in its new state."""
        self._count_in[before] -= 1
        self._count_in[after] += 1
        if before == "running" and self._queue and self.running < self.count:
            self._queue.popleft().grant()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Reservation:
    """What one task takes of the slots, from its delivery to its end."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._state: _State = "ahead"
        self._granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        return self

    @property
    def in_a_row(self) -> bool:
        """See `Slots.in_a_row`."""
        return self._slots.in_a_row

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._move("over")

    async def start(self) -> bool:
        """Wait for a slot; False if there is none soon, or none any more: then the task is for others."""
        self._slots.ask(self)
        if self._granted.done():
            return self._granted.result()
        timer = asyncio.get_running_loop().call_later(_AHEAD_S, self._slots.give_up, self)
        try:
            return await self._granted
        except asyncio.CancelledError:
            self._slots.forget(self)
            raise
        finally:
            timer.cancel()

    def ended(self, ran_s: float = math.inf) -> None:
        """The command, if it was started, has ended after so many seconds: the slot is free, the task being settled."""
        if self._state == "running":
            self._slots.ended(ran_s)
            self._move("settling")

    def grant(self) -> None:
        """It is this one's turn."""
        self._move("running")
        self._granted.set_result(True)

    def refuse(self) -> None:
        """There is no slot for this one."""
        self._granted.set_result(False)

    def _move(self, state: _State) -> None:
        before, self._state = self._state, state
        self._slots.moved(before, state)
