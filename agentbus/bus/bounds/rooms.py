"""What a connection remembers of the room in streams, so that a publication seldom has to ask, and never for long."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError, PermissionDeniedError, StreamFullError

_REMEMBERED_S: Final = 10.0
"""How long an answer counts: 400 to 650 tasks a second are 2 % of a bound of the default size by then."""
_TIMEOUT_S: Final = 1.0
"""How long a publication waits for the answer: it is no promise, and must not make a slow bus slower."""
_MOST_ROOMS: Final = 1000
"""How many answers are remembered: a client that names a new inbox each time must not make this grow for ever."""


@dataclass(slots=True)
class Room:
    """The room that there was up to the mark, less what was published since; by default as much as is needed."""

    messages: float = math.inf
    bytes: float = math.inf
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """A question for the room that a task needs.

    Attributes:
        stream: what is asked about: a user who may not look at it asks once.
        key: under which the answer is remembered.
        size: the bytes that the task takes of it.
        look: asks the bus; the error is that of a stream, or a part of it, that is nearly full.
    """

    stream: str
    key: tuple[str, ...]
    size: int
    look: Callable[[], Awaitable[Room | StreamFullError]]


_Looking: TypeAlias = asyncio.Task[StreamFullError | None]


class _Memory:
    """What one connection remembers, and the questions that are on their way: each is asked once at a time."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        self.rooms: dict[tuple[str, ...], Room] = {}
        self.full: set[tuple[str, ...]] = set()
        self.looking: dict[tuple[str, ...], _Looking] = {}

    def take(self, question: Question) -> bool:
        """Take the room for one task from what is remembered; returns False if that is too old, or used up."""
        if not self.may_ask(question):
            return True
        room = self.rooms.get(question.key)
        if room is None or asyncio.get_running_loop().time() > room.until:
            return False
        room.messages -= 1
        room.bytes -= question.size
        return room.messages >= 0 and room.bytes >= 0

    def may_ask(self, question: Question) -> bool:
        """Whether this user may look at the stream, as far as is known."""
        return question.stream not in self.forbidden

    def ask(self, question: Question) -> _Looking:
        """Begin to ask, unless the same question is on its way."""
        looking = self.looking.get(question.key)
        if looking is None:
            looking = self.looking[question.key] = asyncio.create_task(self._look(question))
            looking.add_done_callback(lambda _: self.looking.pop(question.key, None))
        return looking

    def remember(self, question: Question, room: Room) -> None:
        """Remember an answer, or that there was none."""
        if len(self.rooms) + len(self.full) >= _MOST_ROOMS:
            self.rooms.clear()
            self.full.clear()
        self.full.discard(question.key)
        room.until = asyncio.get_running_loop().time() + _REMEMBERED_S
        self.rooms[question.key] = room

    async def _look(self, question: Question) -> StreamFullError | None:
        try:
            found = await question.look()
        except PermissionDeniedError:
            self.forbidden.add(question.stream)  # its permissions are those of an earlier version
            return None
        except BusError:
            found = Room()
        if isinstance(found, StreamFullError):
            self.full.add(question.key)
            return found
        self.remember(question, found)
        return None


_memories: WeakKeyDictionary[Bus, _Memory] = WeakKeyDictionary()


class Rooms:
    """The room that one task needs; it is looked up while the ledger entry of the task is being written.

    Attributes:
        was_full: there was no room for the task before. It is better not to write an entry then before the answer is
            there: one that is taken back leaves a mark in the ledger, which takes of the room for accepted tasks.
    """

    def __init__(self, bus: Bus, questions: Sequence[Question]) -> None:
        """Begin to look it up, where it is not remembered."""
        self._memory = _memories.setdefault(bus, _Memory())
        self.was_full = any(one.key in self._memory.full for one in questions)
        self._questions = questions
        self._open = [(one, self._memory.ask(one)) for one in questions if not self._memory.take(one)]

    async def refusal(self, *, again: bool = False) -> StreamFullError | None:
        """Wait for the answers, and return why there is hardly any room left, with what to do; None if there is.

        Without an answer in time, and for a party that may not look, there is room.

        Args:
            again: ask anew, also where an answer is remembered: a stream was full before it was thought to be.
        """
        questions, self._open = self._open, []
        if again:
            questions = [(one, self._memory.ask(one)) for one in self._questions if self._memory.may_ask(one)]
        if not questions:
            return None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                for question, looking in questions:
                    if (full := await self._answer(question, looking)) is not None:
                        return full
        except TimeoutError:
            for question, looking in questions:
                if not looking.done():
                    self._memory.remember(question, Room())
        return None

    async def _answer(self, question: Question, looking: _Looking) -> StreamFullError | None:
        """Ask until there is room for this task: others that waited for the same answer may have used it up."""
        while True:
            # Another publication may wait for the same answer, so giving up this one does not end the question.
            full = await asyncio.shield(looking)
            if full is not None:
                return StreamFullError(str(full))
            if self._memory.take(question):
                return None
            looking = self._memory.ask(question)
