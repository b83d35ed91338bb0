"""Which tasks wait longest, read from the heads of the agents' queues, and how many of each agent wait and run."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from agentbus.agent_overview import AgentBacklog, AgentOverview
from agentbus.bus.jetstream import Bus
from agentbus.concurrently import concurrently
from agentbus.errors import BusError, CorruptEntryError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.queue.queue_walk import task_of
from agentbus.tasks.status import TaskStatus

MOST_QUEUED: Final = 20
_MOST_AGENTS: Final = 24
"""Of how many agents the heads of the queues are read: first of those that no worker is alive of."""
_LEAST: Final = 3
_OF_OFFLINE: Final = 10
"""Of an agent without a worker, tasks that were running when it went lie at the head of the queue."""
_MOST_WHOLE: Final = 256
"""Of agents without a worker, so many messages are read in all: none takes out the tasks that were cancelled there."""
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class AgentTasks:
    """How many tasks of an agent wait and run, as far as the ledger tells; messages are never counted twice.

    Attributes:
        queued: no worker runs them, also where one was given them and is gone; None if that is not known.
        running: by workers that are alive.
    """

    agent: str
    queued: int | None
    running: int | None

    def to_json(self) -> dict[str, Json]:
        """Return the counts that are known."""
        counts = {"queued": self.queued, "running": self.running}
        return {name: count for name, count in counts.items() if count is not None}


@dataclass(frozen=True, slots=True)
class _Walk:
    """A part of the queue of an agent: from a sequence on so many messages, none of them behind `last`."""

    agent: str
    first: int
    most: int
    last: int | None = None


class QueueHeads:
    """Reads the tasks at the heads of the queues. What lies at a sequence never changes, so each is read once."""

    def __init__(self, bus: Bus, asker: str) -> None:
        self._bus = bus
        self._asker = asker
        self._read: dict[tuple[str, int], tuple[int, TaskKey | None]] = {}

    async def waiting(self, agents: Sequence[AgentBacklog], most: int = MOST_QUEUED) -> list[TaskStatus]:
        """Return tasks that wait, or were cancelled and wait for a worker that drops them; the oldest first.

        Of each agent only the head of its queue is read; of one without a worker all of it, unless it is long. Nothing
        where this user may not read the queue.
        """
        if not self._bus.reads_queue:
            return []
        having = sorted((one for one in agents if one.in_queue), key=lambda one: (one.online, -(one.waiting or 0)))
        chosen = [one for one in having[:_MOST_AGENTS] if not one.online or one.waiting]
        share = max(_LEAST, most // max(1, len(chosen)))
        now: dict[tuple[str, int], tuple[int, TaskKey | None]] = {}

        async def walk(walk: _Walk) -> list[TaskKey]:
            seq, keys = walk.first, list[TaskKey]()
            for _ in range(walk.most):
                found = self._read.get((walk.agent, seq)) or await self._next(walk.agent, seq)
                if found is None or (walk.last is not None and found[0] > walk.last):
                    break
                now[walk.agent, seq] = found
                seq = found[0] + 1
                if found[1] is not None:
                    keys.append(found[1])
            return keys

        try:
            walked = await concurrently(await self._walks(chosen, share), walk, at_once=_AT_ONCE)
        except PermissionDeniedError:
            self._bus.reads_queue = False
            return []
        self._read = now
        return await self._entries([key for keys in walked for key in keys])

    async def _walks(self, chosen: Sequence[AgentBacklog], share: int) -> "list[_Walk]":
        """Say what is read of each queue; a whole one is read in parts at the same time."""
        walks, left, whole = list[_Walk](), _MOST_WHOLE, list[str]()
        for one in chosen:
            if one.online:
                walks.append(_Walk(one.agent, one.delivered_seq + 1, share))
                continue
            # What was given to a worker that is gone waits as well.
            most, messages = max(share, _OF_OFFLINE), one.in_queue or 0
            if most < messages <= left:
                left -= messages
                whole.append(one.agent)
            else:
                walks.append(_Walk(one.agent, 1, most))
        if whole:
            state = (await self._bus.stream_info(subjects.TASKS_STREAM)).state
            step = max(1, -(-(state.last_seq + 1 - state.first_seq) // _AT_ONCE))
            starts = range(state.first_seq, state.last_seq + 1, step)
            walks += [_Walk(agent, seq, _MOST_WHOLE, seq + step - 1) for agent in whole for seq in starts]
        return walks

    async def _next(self, agent: str, seq: int) -> tuple[int, TaskKey | None] | None:
        message = await self._bus.next_at_the_leader(subjects.TASKS_STREAM, subjects.all_of(agent), seq)
        return None if message is None else (message.seq, task_of(message))

    async def _entries(self, keys: Sequence[TaskKey]) -> list[TaskStatus]:
        ledger = Ledger(self._bus)

        async def one(key: TaskKey) -> TaskStatus | None:
            try:
                record = await ledger.read(key)
            except (CorruptEntryError, BusError):
                return None
            return TaskStatus(record, self._asker) if isinstance(record, Record) else None

        found = [status for status in await concurrently(dict.fromkeys(keys), one, at_once=_AT_ONCE) if status]
        waiting = [status for status in found if status.record.entry.state == "queued"]
        return sorted(waiting, key=lambda status: status.record.entry.created_at or "")


def counts_of(
    agents: Sequence[AgentOverview],
    working: Sequence[TaskStatus],
    *,
    lost: Collection[TaskStatus],
    waiting: Sequence[TaskStatus],
    all_working: bool,
    own: bool = False,
) -> list[AgentTasks]:
    """Count the tasks of each agent.

    Args:
        waiting: those at the heads of the queues; the cancelled ones among them are no tasks that wait.
        all_working: whether `working` are all that there are, or the queue has to tell how many run.
        own: whether `waiting` are all that this user may see of the tasks that wait, which are its own.
    """

    def count(one: AgentOverview) -> AgentTasks:
        mine = [status for status in working if status.agent == one.agent]
        running = len(mine) - sum(status in lost for status in mine) if all_working else one.unacknowledged
        if own:
            return AgentTasks(one.agent, sum(status.agent == one.agent for status in waiting), running)
        if one.in_queue is None:
            return AgentTasks(one.agent, None, running)
        running = (running or 0) if one.online else 0
        dropped = sum(status.agent == one.agent and status.settled for status in waiting)
        return AgentTasks(one.agent, max(0, one.in_queue - running - dropped), running)

    return [count(one) for one in agents]
