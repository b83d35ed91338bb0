"""Reads the audit: who did what, by the time at which the server stored it."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.reading.ephemeral_consumers import Start, position_before_newest
from agentbus.protocol.audit import names as audit
from agentbus.protocol.audit.lines import Line, read_line
from agentbus.protocol.json_codec import Json
from agentbus.protocol.subjects import COORDINATOR
from agentbus.protocol.task_names import TaskName
from agentbus.protocol.timestamps import parse_time


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines to read.

    Attributes:
        who: of this party alone.
        task: of this task alone; what the name leaves out may be anything.
        since: not before this time.
        agent: about this agent, or a task of it.
        what: of this kind, such as `publish`, which `publish again` is, too.
        text: with this in the id of the task, or in the detail.
    """

    who: str | None = None
    task: TaskName | None = None
    since: datetime | None = None
    agent: str | None = None
    what: str | None = None
    text: str | None = None

    def takes(self, line: Line) -> bool:
        """Whether a line is wanted."""
        for wanted, found in ((self.who, line.who), (self.agent, line.agent), (self.what, line.what.partition(" ")[0])):
            if wanted not in (None, found):
                return False
        if (
            self.text is not None
            and self.text.casefold() not in f"{line.task and line.task.id}\n{line.detail}".casefold()
        ):
            return False
        if self.since is not None and line.at < self.since:
            return False
        if self.task is None:
            return True
        key = line.task
        return key is not None and self.task.matches(TaskName(key.id, key.agent, key.owner))


@dataclass(frozen=True, slots=True)
class Lost:
    """Lines that are gone before their 90 days, because newer ones took their place.

    Attributes:
        count: how many at least: those between lines that are still there.
        parties: whose: those that have as many lines as a party may.
        full_since: how far a full audit reaches back, for all parties; None if it is not full.
    """

    count: int
    parties: tuple[str, ...]
    full_since: datetime | None


async def newest_lines(bus: Bus, wanted: Wanted, count: int) -> list[Line]:
    """Read the newest `count` of the lines that are wanted, oldest first.

    Raises:
        SetupMissingError: the bus has no audit: an earlier version made it.
        PermissionDeniedError: this user may not read the audit: operators, viewers and the administrator may.
    """
    found = deque[Line](maxlen=count)
    async with AsyncExitStack() as stack:
        # The server knows nanoseconds, and a line microseconds: `takes` decides.
        start: Start = 0 if wanted.since is None else wanted.since - timedelta(milliseconds=1)
        sources: list[AsyncGenerator[Line]] = []
        for stream in audit.STREAMS:
            if wanted == Wanted():
                start = await position_before_newest(bus, stream, audit.ALL, count)
            consumer = await stack.enter_async_context(OrderedConsumer(bus, stream, audit.ALL, after=start))
            sources.append(_lines(consumer))
        async for line in _merged(sources):
            if wanted.takes(line):
                found.append(line)
    return list(found)


async def _lines(consumer: OrderedConsumer) -> AsyncGenerator[Line]:
    async for message in consumer.backlog():
        line = read_line(message.subject, message.stored_at, message.headers, message.data)
        if line is not None:
            yield line


async def _merged(sources: list[AsyncGenerator[Line]]) -> AsyncGenerator[Line]:
    """Yield the lines of all sources by time, of which each holds its own in that order."""
    heads: dict[int, Line] = {}
    due = list(range(len(sources)))
    while due or heads:
        for index in due:
            if (line := await anext(sources[index], None)) is not None:
                heads[index] = line
        if not heads:
            return
        earliest = min(heads, key=lambda index: heads[index].at)
        yield heads.pop(earliest)
        due = [earliest]


async def lost_lines(bus: Bus) -> Lost:
    """Tell which lines are gone early; raises what `newest_lines` raises."""
    count, parties, full_since = 0, set[str](), list[datetime]()
    for stream in audit.STREAMS:
        info = await bus.stream_info(stream, subjects_filter=audit.ALL)
        count += info.state.num_deleted
        full = [subject for subject, held in (info.state.subjects or {}).items() if 0 < info.max_per_subject <= held]
        parties.update(party for subject in full if (party := audit.party_of(subject)) is not None)
        if info.max_bytes > 0 and info.state.bytes + audit.MAX_LINE_BYTES > info.max_bytes:
            full_since.append(parse_time(info.state.first_time))
    return Lost(count, tuple(sorted(parties)), max(full_since, default=None))


def name(line: Line) -> TaskName | None:
    """The name of the task that a line is about."""
    if line.task is None:
        return None
    owner = line.task.owner if line.task.owner != COORDINATOR else None
    return TaskName(line.task.id, line.task.agent, owner)


def to_json(line: Line) -> dict[str, Json]:
    """A line as a JSON object."""
    return {
        "at": line.at.isoformat(),
        "who": line.who,
        "named_by": line.named_by,
        "what": line.what,
        "agent": line.agent,
        "owner": line.task.owner if line.task else None,
        "task": line.task.id if line.task else None,
        **({"detail": line.detail} if line.detail else {}),
        **({"bytes": line.size} if line.size is not None else {}),
    }
