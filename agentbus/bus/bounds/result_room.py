"""Whether there will be room for the result of a task: its publication is refused before there is none.

A result that finds no room waits on the disk of its worker. So tasks are refused while some room is left, for the
results of those that were accepted before.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.errors import BusError, PermissionDeniedError, StreamFullError
from agentbus.protocol import subjects

NEARLY_FULL: Final = 0.9
"""The part of a bound from which on tasks are refused. The rest is for the results of tasks that were accepted."""
_REMEMBERED_S: Final = 5.0
"""How long an answer counts: 400 to 650 tasks a second are 1 to 2 % of a bound of the default size."""
_TIMEOUT_S: Final = 1.0
"""How long a publication waits for the answer: it is no promise, and must not make a slow bus slower."""
_MOST_ROOMS: Final = 1000
"""How many answers are remembered: a client that names a new inbox each time must not make this grow for ever."""


@dataclass(slots=True)
class _Room:
    """The room that there was for results of one agent in one inbox, less what was published since."""

    until: float
    messages: float
    bytes: float


class _Memory:
    """What one connection remembers."""

    def __init__(self) -> None:
        self.may_look = True
        self.rooms: dict[tuple[str, str], _Room] = {}

    def take(self, key: tuple[str, str], size: int) -> bool:
        """Take the room for one result from what is remembered; returns False if that is too old, or used up."""
        room = self.rooms.get(key)
        if room is None or asyncio.get_running_loop().time() > room.until:
            return False
        room.messages -= 1
        room.bytes -= size
        return room.messages >= 0 and room.bytes >= 0

    def remember(self, key: tuple[str, str], messages: float = math.inf, in_bytes: float = math.inf) -> None:
        """Remember how much room there is; by default as much as is needed, after a question without an answer."""
        if len(self.rooms) >= _MOST_ROOMS:
            self.rooms.clear()
        self.rooms[key] = _Room(asyncio.get_running_loop().time() + _REMEMBERED_S, messages, in_bytes)


_memories: WeakKeyDictionary[Bus, _Memory] = WeakKeyDictionary()


class ResultRoom:
    """The room for the result of one task, which is looked up while its ledger entry is being written."""

    def __init__(self, bus: Bus, agent: str, inbox: str, size: int) -> None:
        """Begin to look it up, unless it is remembered; `size` is that of the task, which its result embeds."""
        self._memory = _memories.setdefault(bus, _Memory())
        self._key = (agent, inbox)
        self._looking: asyncio.Task[StreamFullError | None] | None = None
        if self._memory.may_look and not self._memory.take(self._key, size):
            self._looking = asyncio.create_task(_look(bus, self._memory, agent, inbox, size))

    async def check(self) -> None:
        """Wait for the answer. Without one, and for a party that may not look, there is room.

        Raises:
            StreamFullError: there is hardly any room left; the message says for what, and what to do.
        """
        if self._looking is None:
            return
        await asyncio.wait({self._looking}, timeout=_TIMEOUT_S)
        if not self._looking.done():
            self._memory.remember(self._key)
        elif (full := self._looking.result()) is not None:
            raise full

    def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()


async def _look(bus: Bus, memory: _Memory, agent: str, inbox: str, size: int) -> StreamFullError | None:
    subject = subjects.results(inbox, agent)
    try:
        info = await bus.stream_info(subjects.RESULTS_STREAM, subjects_filter=subject)
    except PermissionDeniedError:
        memory.may_look = False  # its permissions are those of an earlier version
        return None
    except BusError:
        memory.remember((agent, inbox))
        return None
    count = (info.state.subjects or {}).get(subject, 0)
    messages = NEARLY_FULL * info.max_per_subject - count if info.refuses_per_subject else math.inf
    in_bytes = NEARLY_FULL * info.max_bytes - info.state.bytes if info.max_bytes > 0 else math.inf
    if messages <= 0:
        return _writer_full(agent, inbox, count, info)
    if in_bytes <= 0:
        return _stream_full(info)
    memory.remember((agent, inbox), messages - 1, in_bytes - size)
    return None


def _writer_full(agent: str, inbox: str, count: int, info: StreamInfo) -> StreamFullError:
    subject = subjects.results(inbox, agent)
    return StreamFullError(
        f"{agent} has {count} results in the inbox of {inbox}, and may have {info.max_per_subject} there; from "
        f"{NEARLY_FULL:.0%} on, no task is taken that would add one. Nothing was queued. An administrator can remove "
        f"old ones (nats stream purge {info.config.get('name')} --subject {subject} --keep N), or raise max_bytes of "
        "the stream and run agentbus setup --update"
    )


def _stream_full(info: StreamInfo) -> StreamFullError:
    name, mib = info.config.get("name"), 1 << 20
    return StreamFullError(
        f"{name} holds {info.state.bytes / mib:.1f} of {info.max_bytes / mib:.1f} MiB; from {NEARLY_FULL:.0%} on, no "
        "task is taken that would add a result. Nothing was queued. An administrator can raise its max_bytes, or "
        f"remove old results (nats stream purge {name} --subject SUBJECT --keep N)"
    )
