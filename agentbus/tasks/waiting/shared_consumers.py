"""The consumers that the waits of a connection follow the ledger with: few, however many waits there are.

A wait that is alone has a consumer of its own, which begins with the newest entry of its task. Others get one together
with all who ask in the same moment. Where eight have few tasks each, those become one with the tasks of all: so a
thousand waits have some ten consumers, and each task was put into another one three times at most. What changes before
the new one exists is delivered by those of before, or found by reading again the tasks that were put together.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ephemeral_consumers import Start
from agentbus.errors import PermissionDeniedError

_LINGER_S: Final = 0.005
"""How long the consumer of a wait outlives it: its end takes a request, and would come before what the caller does."""
_KEYS_AT_ONCE: Final = 200
"""How many keys one consumer has. Making one takes 0.04 ms of each key with 200, and 0.09 ms with 1000."""
_ONE_FROM: Final = ((1, 4, 16), (5, 49, 4))
"""From how many consumers on that have so many keys, at least and at most, they become one. So none gets over 200."""
_MOST_ALONE: Final = 8
"""How many consumers of one key a user has in a stream who may not have such of several."""
_MOST_UNREAD: Final = 1_000
"""From how many changes on that a wait has not read only the last one of each key is kept."""


class News(NamedTuple):
    """What a wait has to look at.

    Attributes:
        changes: what was delivered, in order.
        read_again: the subjects whose entries have to be read: they may have changed without a delivery.
    """

    changes: list[Delivery]
    read_again: set[str]


class Follower:
    """The side of one wait: which keys of a stream it follows, and what is new of them."""

    def __init__(self, keys: Collection[str], mark: int | None) -> None:
        """Take the subjects of the keys, and the end of the stream before they were read, where that is known."""
        self.keys = keys
        self.mark = mark
        self.closed = False
        self.opened: asyncio.Future[datetime | None] = asyncio.get_running_loop().create_future()
        self._changes: list[Delivery] = []
        self._again = set[str]()
        self._most_unread = _MOST_UNREAD
        self._error: BaseException | None = None
        self._event = asyncio.Event()

    async def news(self) -> News:
        """Wait for what is new.

        Raises:
            BusError: the keys cannot be followed any more.
        """
        while not self._changes and not self._again:
            if self._error is not None:
                raise self._error
            self._event.clear()
            await self._event.wait()
        found = News(self._changes, self._again)
        self._changes, self._again = [], set[str]()
        return found

    def deliver(self, delivery: Delivery) -> None:
        """Take a change of one of the keys."""
        if len(self._changes) >= self._most_unread:
            self._changes = list({one.subject: one for one in self._changes}.values())
            self._most_unread = max(_MOST_UNREAD, 2 * len(self._changes))
        self._changes.append(delivery)
        self._event.set()

    def read_again(self, keys: Iterable[str]) -> None:
        """Have entries read."""
        if not self.closed:
            self._again.update(keys)
            self._event.set()

    def fail(self, error: BaseException) -> None:
        """End the wait with an error."""
        self._error = self._error or error
        self._event.set()
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # its wait may have ended

    def open(self, server_time: datetime | None) -> None:
        """Tell that keys are followed from now on."""
        if not self.opened.done():
            self.opened.set_result(server_time)


class _Part:
    """One consumer, and who follows which of its keys.

    Args:
        followers: by the subjects of the keys.
        before: the consumers that it is made in place of.
    """

    def __init__(
        self, group: "_Group", followers: dict[str, set[Follower]], after: Start, before: Sequence["_Part"]
    ) -> None:
        self.followers = followers
        self.after: Start = after
        self.before = before
        self.has_several = group.wide is None and len(followers) > 1
        self._group = group
        self._server_time: datetime | None = None
        self._opened_at = 0.0
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    @property
    def server_time(self) -> datetime | None:
        """The time of the server now, as far as it is known."""
        if self._server_time is None:
            return None
        return self._server_time + timedelta(seconds=asyncio.get_running_loop().time() - self._opened_at)

    async def _run(self) -> None:
        group, keys = self._group, list(self.followers)
        wanted = group.wide or (keys if self.has_several else keys[0])  # the right to follow one key, every user has
        async with OrderedConsumer(
            group.bus, group.stream, wanted, after=self.after, headers_only=group.wide is not None
        ) as consumer:
            self._server_time, self._opened_at = consumer.server_time, asyncio.get_running_loop().time()
            group.opened(self)
            while True:
                for delivery in await consumer.next_several():
                    for follower in self.followers.get(delivery.subject, ()):
                        follower.deliver(delivery)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._group.failed(self, error)

    def remove(self, key: str, follower: Follower) -> None:
        if (its := self.followers.get(key)) is not None:
            its.discard(follower)
            if not its:
                del self.followers[key]

    def end(self) -> asyncio.Task[None]:
        self._task.cancel()
        return self._task


class _Group:
    """The consumers of one stream.

    Args:
        wide: the filter of the one consumer that there is; None where each has those that are waited for.
    """

    def __init__(self, bus: Bus, stream: str, wide: str | None) -> None:
        self.bus = bus
        self.stream = stream
        self.wide = wide
        self.followers = set[Follower]()
        self._waiting: dict[Follower, None] = {}  # in order
        self._opening: list[_Part] = []
        self._parts: list[_Part] = []
        self._at: dict[str, _Part] = {}  # which of the parts has a key
        self._ending = set[asyncio.Task[None]]()

    def add(self, follower: Follower) -> None:
        """Have a wait follow its keys."""
        self.followers.add(follower)
        self._waiting[follower] = None
        self._place()

    def let_go(self, follower: Follower) -> set[asyncio.Task[None]]:
        """Let a wait go; return what ends because no other needs it."""
        follower.closed = True
        self.followers.discard(follower)
        self._waiting.pop(follower, None)
        for key in follower.keys:
            for part in (self._at.get(key), *self._opening):
                if part is not None:
                    part.remove(key, follower)
            if (part := self._at.get(key)) is not None and key not in part.followers:
                del self._at[key]
        ends = {self._end(part) for part in (*self._parts, *self._opening) if not part.followers}
        self._place()
        return ends if self.followers else set(self._ending)

    def opened(self, part: _Part) -> None:
        """Take a consumer that delivers from now on, and end those that it was made in place of."""
        self._opening.remove(part)
        again: dict[Follower, list[str]] = {}
        for key, its in part.followers.items():
            merged = key in self._at
            self._at[key] = part
            for follower in its:
                known = part.after == "last_per_subject" or (follower.mark is not None and not merged)
                again.setdefault(follower, []).extend([] if known else [key])
        for before in part.before:
            self._end(before)
        self._parts.append(part)
        for follower, keys in again.items():
            self._tell(follower, part, keys)
        self._place()

    def failed(self, part: _Part, error: BaseException) -> None:
        """Fail the waits of a consumer that has ended. Those that have it in place of another one keep that."""
        if isinstance(error, PermissionDeniedError) and part.has_several:
            self.bus.reads_whole_ledger = False  # a bus of an older layout, where keys are followed one by one
        for key, its in part.followers.items():
            if self._at.get(key, part) is part:
                self._at.pop(key, None)
                for follower in its:
                    follower.fail(error)
        self._forget(part)
        self._place()

    def _place(self) -> None:
        """Give those that wait for it a consumer. While one is made, those that come meanwhile are gathered."""
        if self._opening or not self._waiting:
            return
        batch, self._waiting = self._waiting, {}
        new: dict[str, set[Follower]] = {}
        for follower in batch:
            joined: dict[_Part, list[str]] = {}
            for key in follower.keys:
                part = self._at.get(key) or (self._parts[0] if self.wide and self._parts else None)
                if part is None:
                    new.setdefault(key, set()).add(follower)
                else:
                    self._at[key] = part
                    part.followers.setdefault(key, set()).add(follower)
                    joined.setdefault(part, []).append(key)
            for part, keys in joined.items():
                self._tell(follower, part, keys)
        if new:
            self._open(new)

    def _open(self, new: dict[str, set[Follower]]) -> None:
        if self.wide is not None:
            self._opening = [_Part(self, new, _start(new), ())]
            return
        keys = list(new)
        at_once = _KEYS_AT_ONCE if self.bus.reads_whole_ledger else 1  # others need a filter for each consumer
        chunks = [dict.fromkeys(keys[at : at + at_once]) for at in range(0, len(keys), at_once)]
        for chunk in chunks:
            followers = {key: new[key] for key in chunk}
            last = chunk is chunks[-1] and self.bus.reads_whole_ledger
            before = self._merged_into(followers) if last else ()
            after: Start = "last_per_subject" if len(followers) == 1 else _start({key: new[key] for key in chunk})
            self._opening.append(_Part(self, followers, after, before))

    def _merged_into(self, followers: dict[str, set[Follower]]) -> list[_Part]:
        """Add the keys of the consumers that become one with these; return those consumers."""
        merged: list[_Part] = []
        for fewest, most, count in _ONE_FROM:
            same = [part for part in self._parts if fewest <= len(part.followers) <= most][: count - 1]
            if len(same) == count - 1 and fewest <= len(followers) <= most:
                merged += same
                for part in same:
                    followers.update((key, set(its)) for key, its in part.followers.items())
        return merged

    def _tell(self, follower: Follower, part: _Part, again: Sequence[str]) -> None:
        """Tell a wait that a consumer delivers, and which entries may have changed before that."""
        follower.open(part.server_time)
        if again:
            follower.read_again(again)
            if self.bus.clustered:  # the replica that answers may lag behind
                asyncio.get_running_loop().call_later(self.bus.lag_s, follower.read_again, again)

    def _end(self, part: _Part) -> asyncio.Task[None]:
        self._forget(part)
        task = part.end()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _forget(self, part: _Part) -> None:
        for parts in (self._parts, self._opening):
            if part in parts:
                parts.remove(part)


def _start(followers: dict[str, set[Follower]]) -> Start:
    """Return where a consumer begins: where those that know what was before it have looked, else with what is new.

    To begin with the newest entry of several keys, the server would look at all of the ledger.
    """
    marks = [one.mark for its in followers.values() for one in its if one.mark is not None]
    return min(marks) if marks else "new"


_groups: WeakKeyDictionary[Bus, dict[tuple[str, str | None], _Group]] = WeakKeyDictionary()


def are_many(bus: Bus, stream: str) -> bool:
    """Whether a user who may not have consumers of several keys has many waits for single ones in a stream already."""
    group = _groups.get(bus, {}).get((stream, None))
    return group is not None and len(group.followers) >= _MOST_ALONE


@asynccontextmanager
async def followed(
    bus: Bus, stream: str, keys: Collection[str], *, mark: int | None = None, wide: str | None = None
) -> AsyncGenerator[Follower]:
    """Follow keys of the ledger for the length of the block; cancelling it touches no other wait.

    Args:
        keys: their subjects.
        mark: the end of the stream before the entries were read; None where that is unknown.
        wide: a filter that covers them. With it, those that ask for the same one share a consumer of all that it
            covers, which delivers headers alone.
    """
    groups = _groups.setdefault(bus, {})
    group = groups.get((stream, wide)) or groups.setdefault((stream, wide), _Group(bus, stream, wide))
    follower = Follower(keys, mark)
    group.add(follower)
    try:
        yield follower
    finally:
        follower.closed = True
        bus.begun.leave(asyncio.create_task(_let_go_soon(bus, group, follower)))


async def _let_go_soon(bus: Bus, group: _Group, follower: Follower) -> None:
    """End what a wait alone has needed, once its caller has what it has waited for."""
    await asyncio.sleep(_LINGER_S)
    ends = group.let_go(follower)
    groups = _groups.get(bus, {})
    if not group.followers and groups.get((group.stream, group.wide)) is group:
        del groups[group.stream, group.wide]
    if ends:
        await asyncio.wait(ends)
