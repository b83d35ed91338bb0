"""Delivers events to one target: each once, repeated until it is taken, none held up by another.

What was read and not taken yet lies in the state file, with the position among the events. So a machine that was off
delivers what has happened meanwhile, and what it had not delivered before.
"""

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentbus.concurrently import until_one_ends
from agentbus.config.private_files import private_folder, write_private
from agentbus.errors import ConfigError, NotDeliveredError
from agentbus.notify.targets import Target
from agentbus.protocol.json_codec import Json
from agentbus.tasks.events.position import Position, position_of
from agentbus.tasks.events.task_event import TaskEvent

log = logging.getLogger("agentbus.notify")

_AT_ONCE: Final = 4
_FIRST_RETRY_S: Final = 2.0
_LONGEST_RETRY_S: Final = 600.0
_MOST_PENDING: Final = 10_000
"""How many events wait for a target that takes none; of more, the oldest are given up."""
_MAX_FILE_BYTES: Final = 32 * 2**20
_LOOK_S: Final = 1.0
"""How soon a position that has moved without an event is written down."""
_WRITE_SHARE: Final = 9.0
"""How much longer than a write the pause after it is."""


class _Waiting(BaseModel):
    model_config = ConfigDict(extra="ignore")

    payload: dict[str, Any]
    since: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _State(BaseModel):
    model_config = ConfigDict(extra="ignore")

    position: dict[str, Any]
    waiting: Annotated[list[_Waiting], Field(max_length=_MOST_PENDING)] = []


@dataclass
class _Pending:
    payload: dict[str, Json]
    since: float
    due: float = 0.0
    tries: int = 0
    under_way: bool = False


@dataclass
class Notifier:
    """The deliveries to one target; make one with `open_notifier`.

    Attributes:
        give_up_s: an event that was not taken for so long is given up.
    """

    target: Target
    file: Path
    give_up_s: float
    position: Position = field(default_factory=Position)
    _pending: dict[str, _Pending] = field(default_factory=dict[str, _Pending])
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, event: TaskEvent) -> None:
        """Keep an event that is to be delivered. It is written down with the position that holds it."""
        self._pending[event.id] = _Pending(event.to_json(), time.time())
        while len(self._pending) > _MOST_PENDING:
            self._give_up(next(iter(self._pending)), "too many wait")
        self._changed.set()
        self._news.set()

    async def run(self) -> None:
        """Deliver what is kept and write down what is left, until this is cancelled."""
        await until_one_ends(self._deliver_all(), self._write())

    async def _write(self) -> None:
        """Write the state soon after each change; many at a time, such as after an absence, cost one write."""
        at = self.position.at
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()
            if self._changed.is_set() or self.position.at != at:
                at = self.position.at
                self._changed.clear()
                began = _now()
                self.save()
                await asyncio.sleep(_WRITE_SHARE * (_now() - began))

    async def _deliver_all(self) -> None:
        deliveries = set[asyncio.Task[None]]()
        try:
            while True:
                for event_id, pending in self._ready(_AT_ONCE - len(deliveries)):
                    pending.under_way = True
                    delivery = asyncio.create_task(self._deliver(event_id, pending))
                    deliveries.add(delivery)
                    delivery.add_done_callback(deliveries.discard)
                    delivery.add_done_callback(lambda _: self._news.set())
                self._news.clear()
                try:
                    async with asyncio.timeout(self._until_next_s()):
                        await self._news.wait()
                except TimeoutError:
                    continue
        finally:
            for delivery in deliveries:
                delivery.cancel()
            await asyncio.gather(*deliveries, return_exceptions=True)

    def save(self) -> None:
        """Write the state.

        Raises:
            ConfigError: it cannot be written.
        """
        if self.position.at is None:
            return  # nothing was read yet
        waiting = [_Waiting(payload=one.payload, since=one.since) for one in self._pending.values()]
        state = _State(position=self.position.to_json(), waiting=waiting)
        write_private(self.file, state.model_dump_json(), replace=True)

    def load(self) -> None:
        """Read the state of an earlier run; without one, begin now.

        Raises:
            ConfigError: it cannot be read, or holds something else.
        """
        try:
            with self.file.open("rb") as opened:
                state = _State.model_validate(json.loads(opened.read(_MAX_FILE_BYTES)))
            self.position = position_of(state.position)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"{self.file} cannot be read: {error.strerror}") from None
        except (ValueError, ValidationError, RecursionError):
            raise ConfigError(f"{self.file} is no state of agentbus notify; remove it to begin now") from None
        self._pending = {str(one.payload.get("id")): _Pending(one.payload, one.since) for one in state.waiting}

    def _ready(self, most: int) -> list[tuple[str, _Pending]]:
        now = _now()
        ready = [(name, one) for name, one in self._pending.items() if not one.under_way and one.due <= now]
        return ready[:most]

    def _until_next_s(self) -> float | None:
        """Return how long there is nothing to do; with all deliveries under way, the end of one wakes."""
        waiting = [one.due for one in self._pending.values() if not one.under_way]
        if not waiting or sum(one.under_way for one in self._pending.values()) >= _AT_ONCE:
            return None
        return max(0.0, min(waiting) - _now())

    async def _deliver(self, event_id: str, pending: _Pending) -> None:
        try:
            await self.target.send(pending.payload)
        except NotDeliveredError as error:
            pending.under_way = False
            pending.tries += 1
            if time.time() - pending.since > self.give_up_s:
                self._give_up(event_id, str(error))
            else:
                pause_s = min(_FIRST_RETRY_S * 2 ** min(pending.tries - 1, 20), _LONGEST_RETRY_S)
                pending.due = _now() + pause_s * random.uniform(0.75, 1.25)  # noqa: S311
                log.warning("%s; event %s is sent again in %.0f s", error, event_id, pause_s)
                return
        else:
            self._pending.pop(event_id, None)
        self._changed.set()

    def _give_up(self, event_id: str, why: str) -> None:
        self._pending.pop(event_id, None)
        log.error("event %s was given up: %s", event_id, why)


@asynccontextmanager
async def open_notifier(target: Target, file: Path, give_up_s: float) -> AsyncGenerator[Notifier]:
    """Open the state of a target, which no other process uses meanwhile.

    Raises:
        ConfigError: another process uses it, or it cannot be used.
    """
    private_folder(file.parent)
    lock = FileLock(file.with_suffix(".lock"), timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"another agentbus notify runs with {file}; give this one a --state of its own") from None
    try:
        notifier = Notifier(target, file, give_up_s)
        notifier.load()
        try:
            yield notifier
        finally:
            notifier.save()
    finally:
        lock.release()


def _now() -> float:
    return asyncio.get_running_loop().time()
