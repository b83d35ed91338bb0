"""Reads the board of one coordinator while someone looks at it, once for all who look, and tells each what has changed.

The board is a few sections of rows, each row under a key. A reader gets the order of a section whenever it has changed,
and of its rows those that it has not seen: so what goes to a page is what happened since, however seldom it takes it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, BusUnavailableError, PermissionDeniedError, SetupMissingError
from agentbus.protocol.json_codec import Json
from agentbus.protocol.roles import Role
from agentbus.ui.rows import Row, is_same

Sections = Mapping[str, Mapping[str, Row]]
Read = Callable[[Coordinator], Awaitable[Sections]]

_LEAST_S: Final = 1.0
"""Between two looks: what happens shows within about a second."""
_IDLE_SHARE: Final = 9
"""A look that takes long is made seldom: so many times what it took lies before the next one, at least."""
_MOST_S: Final = 15.0
_AWAY_S: Final = 0.5
_FRESH_S: Final = 2.0
"""A board that was read within so long is shown at once: a second page costs nothing."""
_FIRST_S: Final = 10.0
"""How long a first look may take; what is there by then is shown, and the rest comes."""
_FAULT: Final = "fault"
NOTHING: Final = -1
"""The version of the board that a page has which has seen none."""


class Link(Protocol):
    """A connection of a coordinator that may be away."""

    @property
    def agent(self) -> str:
        """The id of the coordinator."""
        ...

    role: Role

    @property
    def up(self) -> Coordinator | None:
        """The coordinator; None without a connection at this moment."""
        ...

    async def coordinator(self) -> Coordinator:
        """Return the coordinator, waiting a moment for a connection."""
        ...


@dataclass(slots=True)
class _Section:
    rows: dict[str, tuple[int, Row]] = field(default_factory=dict[str, tuple[int, Row]])
    version: int = 0


class Feed:
    """The board of one coordinator, as it was read last."""

    def __init__(self, link: Link, read: Read) -> None:
        """Make the feed of a link; `read` gives the sections as they are now."""
        self._link = link
        self._read = read
        self._sections: dict[str, _Section] = {}
        self._version = 0
        self._readers = 0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._soon = asyncio.Event()
        self._looked_at = float("-inf")
        self._look_ended = asyncio.Event()

    async def run(self) -> None:
        """Read the board while there are readers, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._wanted.wait()
            began = clock()
            pause = await self._look()
            took, self._looked_at = clock() - began, began
            self._look_ended.set()
            self._look_ended = asyncio.Event()
            self._soon.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_MOST_S, max(pause, took * _IDLE_SHARE))):
                    await self._soon.wait()

    def hurry(self) -> None:
        """Have the board read at once, as something was just done."""
        self._soon.set()

    @asynccontextmanager
    async def reader(self, since: int = NOTHING) -> AsyncGenerator["Reader"]:
        """Have the board read for the length of the block, for one who has seen it up to a version."""
        if not self._readers and asyncio.get_running_loop().time() - self._looked_at > _FRESH_S:
            self._soon.set()  # the first one who looks does not wait for a pause that an earlier look asked for
        self._readers += 1
        self._wanted.set()
        try:
            yield Reader(self, since if since <= self._version else NOTHING)
        finally:
            self._readers -= 1
            if not self._readers:
                self._wanted.clear()

    async def current(self) -> dict[str, Json]:
        """Return the whole board as it is now, or was when the bus was last there; see `since`."""
        clock = asyncio.get_running_loop().time
        asked = clock() - _FRESH_S
        async with self.reader():
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_S):
                    while self._looked_at < asked:
                        await self._look_ended.wait()
        return self.since(NOTHING)

    @property
    def version(self) -> int:
        """Rises with each change."""
        return self._version

    async def changed_since(self, version: int) -> None:
        """Wait until something has changed since."""
        while self._version <= version:
            await self._changed.wait()

    def since(self, version: int) -> dict[str, Json]:
        """Return what has changed since: of each section the order of its keys and the new rows; and `version`."""
        found: dict[str, Json] = {}
        for name, section in self._sections.items():
            if section.version > version:
                rows: dict[str, Json] = {key: row for key, (at, row) in section.rows.items() if at > version}
                found[name] = {"order": [*section.rows], "rows": rows}
        return {**found, "version": self._version}

    def put(self, name: str, rows: Mapping[str, Row]) -> None:
        """Take the rows of a section as they are now."""
        section = self._sections.get(name)
        if section is None:
            section = self._sections[name] = _Section(version=-1)
        old, version = section.rows, self._version + 1
        new = {
            key: old[key] if key in old and is_same(row, old[key][1]) else (version, row) for key, row in rows.items()
        }
        changed = section.version < 0 or [*new] != [*old] or any(at == version for at, _ in new.values())
        section.rows = new
        if changed:
            section.version = self._version = version
            self._changed.set()
            self._changed = asyncio.Event()

    async def _look(self) -> float:
        """Take one look; return after what time the next one may be taken, at the earliest."""
        bus = self._link.up
        if bus is None:
            self._say_link(connected=False)
            return _AWAY_S
        try:
            sections = await self._read(bus)
        except BusUnavailableError:
            self._say_link(connected=self._link.up is not None)
            return _AWAY_S
        except (PermissionDeniedError, SetupMissingError) as error:
            self.put(_FAULT, {_FAULT: {"error": str(error)}})
            return _MOST_S
        except AgentBusError as error:
            self.put(_FAULT, {_FAULT: {"error": str(error)}})
            return _LEAST_S
        self._say_link(connected=True)
        if _FAULT in self._sections:
            self.put(_FAULT, {})
        for section, rows in sections.items():
            self.put(section, rows)
        return _LEAST_S

    def _say_link(self, *, connected: bool) -> None:
        self.put("link", {"link": {"connected": connected}})


class Reader:
    """One who looks at a feed; takes what has changed whenever it likes."""

    def __init__(self, feed: Feed, seen: int) -> None:
        self._feed = feed
        self._seen = seen

    async def next(self) -> dict[str, Json]:
        """Wait for a change, and return what this reader has not seen, with its `version`; see `Feed.since`."""
        await self._feed.changed_since(max(self._seen, 0))
        found = self._feed.since(self._seen)
        self._seen = self._feed.version
        return found
