"""Divides the ledger of a bus of an older layout into one stream for each party, while the bus runs.

Each new stream is first a mirror of the keys of its party: that keeps sequences and times, so a claim that is renewed
by its revision stays valid. Once the mirrors have what there is, the old stream takes no more keys; what was stored
until then is mirrored; and the mirrors become streams that take the keys themselves. Between the two, for about a
second, no party can write: a worker tries again, as after a restart of the server. The old stream is deleted last, so
that this can be repeated after it was interrupted at any point.
"""

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentbus.admin.server_versions import parse_version
from agentbus.bus.bounds.subject_counts import subject_counts
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_stream_info
from agentbus.bus.replicas import place
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.bus.topology import wanted_streams
from agentbus.bus.wanted.ledgers import Ledgers
from agentbus.bus.wanted.retention import retention_of
from agentbus.concurrently import concurrently
from agentbus.errors import ApiError, BusError, SetupMissingError
from agentbus.protocol import accounts, subjects
from agentbus.protocol.accounts import account_of_stream
from agentbus.protocol.parties.ledger_streams import NO_KEY, ledger_of, party_in
from agentbus.protocol.subjects import STATE_STREAM

_MIRRORED_S: Final = 3600.0
"""How long the mirrors may take: the disk of the server writes what the ledger holds once more."""
_LAST_S: Final = 30.0
"""How long they may take for what was stored while they were made."""
_PAUSE_S: Final = 0.1
_AT_ONCE: Final = 8
_NO_MESSAGE: Final = 10037
_FIRST_SERVER: Final = (2, 12, 0)
"""Older ones do not make a stream of a mirror, and a mirror of theirs stands still at an entry that was written by
compare-and-set where it lacks the one before."""


@dataclass(frozen=True, slots=True)
class Division:
    """What became of a ledger: how many entries each stream took."""

    entries: dict[str, int]


async def is_due(bus: Bus) -> bool:
    """Whether the bus has one ledger of all."""
    try:
        await bus.stream_info(STATE_STREAM)
    except SetupMissingError:
        return False
    return True


async def parties_of_ledger(bus: Bus) -> list[str]:
    """Return whose keys the ledger of all holds; none where there is no such ledger.

    Keys of what can be no party are left out: they are of no task.
    """
    try:
        counts = await subject_counts(bus, STATE_STREAM, subjects.STATE_SUBJECTS)
    except SetupMissingError:
        return []
    return sorted({party for key in counts if subjects.is_agent_id(party := party_in(key))})


async def check_server(bus: Bus) -> None:
    """Check that the server can divide the ledger of the bus, if that is due.

    Raises:
        BusError: it cannot; nothing was changed.
    """
    version = parse_version(bus.server_version)
    if version is not None and version < _FIRST_SERVER and await is_due(bus):
        first = ".".join(map(str, _FIRST_SERVER[:2]))
        raise BusError(
            f"nats-server {bus.server_version} cannot divide the ledger of a bus that is in use: upgrade nats-server "
            f"to {first} or later first, and run this again. Until then the bus is used as it is"
        )


async def check_room(bus: Bus, granted_bytes: int) -> None:
    """Check that the storage holds the ledger twice, as it does until the old stream is deleted.

    Args:
        bus: into the account of the ledger.
        granted_bytes: the storage of that account when the ledger is divided; -1 for no limit.

    Raises:
        BusError: it does not; nothing was changed.
    """
    infos = {str(info.config.get("name")): info for info in await bus.streams_of(">")}
    ledger = infos.get(STATE_STREAM)
    if granted_bytes < 0 or ledger is None:
        return
    # Where the queue lies here still, it moves before the ledger is divided.
    used = sum(
        info.state.bytes * max(1, info.num_replicas)
        for name, info in infos.items()
        if account_of_stream(name) == accounts.BUS
    )
    needed = used + ledger.state.bytes * max(1, ledger.num_replicas)
    if needed > granted_bytes:
        raise BusError(
            f"while the ledger is divided it takes its room twice: {math.ceil(needed / (1 << 20))} MiB in all, "
            f"and the bus may use {granted_bytes >> 20} MiB: raise max_file in bus.toml and max_file_store in "
            "nats-server.conf, and restart the server; or keep tasks for a shorter time (agentbus setup --keep-results "
            "DAYS --keep-states DAYS)"
        )


async def divide_ledger(bus: Bus, coordinators: Sequence[str]) -> Division | None:
    """Divide the ledger; returns None if that is done already.

    Args:
        bus: into the account of the ledger, as its administrator.
        coordinators: those beside `main`; all other parties with keys are agents, or were.

    Raises:
        BusError: the bus failed, or a mirror did not get what it must have. Nothing is lost: it can be repeated.
    """
    try:
        old = await bus.stream_info(STATE_STREAM)
    except SetupMissingError:
        return None
    parties = await parties_of_ledger(bus)
    others = (subjects.COORDINATOR, *coordinators)
    ledgers = Ledgers([one for one in parties if one not in others], [one for one in others if one in parties])
    wanted = _configurations(ledgers, old.config)
    for name, config in wanted.items():
        await _mirror(bus, name, config)
    await _until_mirrored(bus, parties, _MIRRORED_S)
    await bus.api(f"STREAM.UPDATE.{STATE_STREAM}", {**old.config, "subjects": [NO_KEY]})
    for _ in range(2):  # what was on its way into the stream may be stored after the first look
        await asyncio.sleep(_PAUSE_S)
        await _until_mirrored(bus, parties, _LAST_S)
    for name, config in wanted.items():
        await _promote(bus, name, config)
    entries = {name: (await bus.stream_info(name)).state.messages for name in wanted}
    await bus.api(f"STREAM.DELETE.{STATE_STREAM}")
    return Division(entries)


def _configurations(ledgers: Ledgers, old: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the configurations of the new streams, without a bound of bytes: the old one has reserved that room."""
    retention = retention_of({STATE_STREAM: old})
    names = {name for name, _, _ in ledgers.parts}
    made = wanted_streams(attested=True, retention=retention, ledgers=ledgers)
    replicas = old.get("num_replicas", 1)
    return {one.name: {**one.config, "num_replicas": replicas} for one in made if one.name in names}


async def _mirror(bus: Bus, name: str, config: dict[str, Any]) -> None:
    """Make a stream that copies the keys of its party, unless it exists: as a mirror, or by now as the ledger."""
    try:
        await bus.stream_info(name)
    except SetupMissingError:
        party = party_in(config["subjects"][0])
        source = {"name": STATE_STREAM, "filter_subject": subjects.states(party or "")}
        copying = {key: value for key, value in config.items() if key != "subjects"}
        await place(bus, f"STREAM.CREATE.{name}", {**copying, "mirror": source})


async def _until_mirrored(bus: Bus, parties: Iterable[str], timeout_s: float) -> None:
    """Wait until every new stream has the newest key of its party.

    Raises:
        BusError: it does not get it.
    """

    async def lacking(party: str) -> str | None:
        try:  # not by a direct get, which a replica that lags may answer
            newest = await bus.api(f"STREAM.MSG.GET.{STATE_STREAM}", {"last_by_subj": subjects.states(party)})
        except ApiError as error:
            if error.err_code != _NO_MESSAGE:
                raise
            return None  # its last entry has expired since
        copy = await bus.stream_info(ledger_of(party))
        return party if copy.state.last_seq < int(newest["message"]["seq"]) else None

    left: list[str] = list(parties)
    async for attempt in retry_until(deadline_after(timeout_s), _PAUSE_S):
        left = [one for one in await concurrently(left, lacking, at_once=_AT_ONCE) if one is not None]
        if not left:
            return
        if attempt.last:
            raise BusError(
                f"{ledger_of(left[0])} has not got all of {STATE_STREAM} within {timeout_s:.0f} s; nothing is lost: "
                "run this again"
            )


async def _promote(bus: Bus, name: str, config: dict[str, Any]) -> None:
    """Make a mirror the stream that takes the keys itself, unless it is."""
    verb = f"STREAM.INFO.{name}"
    now = read_stream_info(await bus.api(verb), verb).config
    if not now.get("mirror"):
        return
    wanted = {key: value for key, value in {**now, **config}.items() if key != "mirror"}
    await bus.api(f"STREAM.UPDATE.{name}", wanted)
