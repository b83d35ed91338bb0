"""Backs up the streams of a bus into a folder while the bus runs, and restores them, by snapshots of JetStream.

A snapshot holds the messages with their sequences and the consumers with their progress, so a restored bus continues
where it was. The streams are copied one after the other: the tasks first, the ledger and the files that it names last.
So the copy of the ledger is never older than that of the tasks, and a task that is delivered again is settled from it.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_deliver_subject, read_object, read_snapshot, read_stream_info
from agentbus.bus.nats_client import Msg
from agentbus.bus.replicas import place
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.config.private_files import open_private, private_folder, write_private
from agentbus.errors import BusError, BusUnavailableError, ConfigError, NoRespondersError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.parties import agent_control
from agentbus.protocol.parties.ledger_streams import party_of_stream
from agentbus.protocol.work import input_names

STREAM_ORDER: Final = (
    subjects.TASKS_STREAM,
    subjects.RESULTS_STREAM,
    subjects.DEAD_STREAM,
    audit.STREAM,
    audit.SAID_STREAM,
    agent_control.STREAM,
    subjects.STATE_STREAM,
)
"""The streams of every bus in the order of the backup; the ledgers of the parties, where each has one, and the
buckets of files of the agents, of outputs and of inputs, follow.

The registry is left out, because workers announce themselves again, and so is what running tasks tell of themselves."""
_FILES_PREFIXES: Final = (subjects.files_stream(""), input_names.stream(""))
_CHUNK_BYTES: Final = 128 * 1024  # the default of nats-server
# The server sends chunks one after the other; after such a pause, the server or the connection hangs.
_CHUNK_TIMEOUT_S: Final = 30.0
_INTEREST_S: Final = 5.0
"""How long the servers of a cluster may take to learn of a subscription: usually milliseconds."""
_PAUSE_S: Final = 0.05
_DATA: Final = "snapshot"
_DESCRIPTION: Final = "stream.json"


@dataclass(frozen=True, slots=True)
class StreamCopy:
    """A stream that was backed up or restored, with its number of messages and the bytes of its snapshot."""

    stream: str
    messages: int
    bytes: int


async def back_up(bus: Bus, folder: Path) -> AsyncGenerator[StreamCopy]:
    """Copy every stream of the bus into `folder`, which must be new or empty; the bus may be in use.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
        BusError: the bus failed. The folder then holds a part of the backup, and no `backup.json`.
    """
    private_folder(folder)
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; a backup goes into a folder of its own")
    names = [name async for name in _streams(bus)]
    for name in names:
        yield await _snapshot(bus.of_stream(name), name, folder / name)
    write_private(folder / "backup.json", json.dumps({"version": 1, "streams": names}) + "\n")


async def restore(bus: Bus, folder: Path, *, replicas: int | None = None) -> AsyncGenerator[StreamCopy]:
    """Restore the streams of a backup on a bus that has none of them.

    Args:
        replicas: replicas of each stream; None takes the number in the backup.

    Raises:
        ConfigError: there is no complete backup in the folder, or a stream of it exists on this bus.
        BusError: the server refused.
    """
    try:
        names: list[str] = json.loads((folder / "backup.json").read_text(encoding="utf-8"))["streams"]
        wanted = {name: json.loads((folder / name / _DESCRIPTION).read_text(encoding="utf-8")) for name in names}
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"there is no complete backup in {folder}") from None
    for name in names:
        if await _exists(bus, name):
            raise ConfigError(
                f"{name} exists on this bus; a backup is restored on a bus without streams: an empty store"
            )
    # The tasks come last: a worker must not receive a task before its ledger entry is restored.
    for name in sorted(names, key=lambda name: name == subjects.TASKS_STREAM):
        config = {**wanted[name]["config"], **({"num_replicas": replicas} if replicas is not None else {})}
        yield await _restore(bus.of_stream(name), name, folder / name / _DATA, config, wanted[name]["state"])


async def copy_stream(source: Bus, target: Bus, name: str, folder: Path) -> StreamCopy:
    """Copy one stream into another account, by way of a folder that does not exist yet.

    Raises:
        BusError: one of the two failed; the target has no stream then.
    """
    await _snapshot(source, name, folder)
    described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    return await _restore(target, name, folder / _DATA, described["config"], described["state"])


async def _streams(bus: Bus) -> AsyncGenerator[str]:
    found = await bus.stream_names()
    for name in STREAM_ORDER:
        if name in found:
            yield name
    for name in sorted(found):
        if party_of_stream(name) is not None:
            yield name
    for name in sorted(found):
        if name.startswith(_FILES_PREFIXES):
            yield name


async def _exists(bus: Bus, name: str) -> bool:
    try:
        await bus.stream_info(name)
    except SetupMissingError:
        return False
    return True


async def _snapshot(bus: Bus, name: str, folder: Path) -> StreamCopy:
    """Write a snapshot to disk. Acknowledge each chunk, so that the server sends only a few in advance."""
    private_folder(folder)
    inbox, chunks = bus.new_inbox(), asyncio.Queue[Msg]()
    unsubscribe = await bus.subscribe(inbox, chunks.put_nowait)
    try:
        wanted = {"deliver_subject": inbox, "chunk_size": _CHUNK_BYTES, "no_consumers": False}
        verb = f"STREAM.SNAPSHOT.{name}"
        answer = read_snapshot(await bus.api(verb, wanted), verb)
        size = 0
        with _errors_name_the_backup(folder), open_private(folder / _DATA) as file:
            while (message := await _next_chunk(chunks, name)).data:
                file.write(message.data)
                size += len(message.data)
                if message.reply:
                    await bus.publish(message.reply)
        headers = dict(message.headers or {})
        if headers.get("Status", "204") != "204":
            raise BusError(f"the snapshot of {name} failed: {headers.get('Description', headers['Status'])}")
    finally:
        await unsubscribe()
    description = {"config": answer.config, "state": answer.state}
    write_private(folder / _DESCRIPTION, json.dumps(description) + "\n")
    return StreamCopy(name, answer.messages, size)


@contextmanager
def _errors_name_the_backup(path: Path) -> Generator[None]:
    """Turn an error of the file system into one that names the backup."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"the backup in {path} failed: {error.strerror or error}") from None


async def _next_chunk(chunks: asyncio.Queue[Msg], name: str) -> Msg:
    try:
        async with asyncio.timeout(_CHUNK_TIMEOUT_S):
            return await chunks.get()
    except TimeoutError:
        raise BusUnavailableError(f"the server has sent nothing more of {name} for {_CHUNK_TIMEOUT_S:g} s") from None


async def _restore(bus: Bus, name: str, data: Path, config: dict[str, Any], state: dict[str, Any]) -> StreamCopy:
    verb = f"STREAM.RESTORE.{name}"
    target, size = read_deliver_subject(await place(bus, verb, {"config": config, "state": state}), verb), 0
    with _errors_name_the_backup(data), data.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            _check(name, await _send_chunk(bus, target, chunk))
            size += len(chunk)
    answer = await _send_chunk(bus, target, b"")
    _check(name, answer)
    return StreamCopy(name, read_stream_info(read_object(answer, verb), verb).state.messages, size)


async def _send_chunk(bus: Bus, target: str, chunk: bytes) -> bytes:
    """Send a chunk to the server that restores, and return its answer.

    In a cluster that may be another server. Ours may learn of its subscription later than we learn of its subject, and
    refuses the chunk until then. A refused chunk has reached no server, so sending it again is safe.
    """
    async for attempt in retry_until(deadline_after(_INTEREST_S), _PAUSE_S):
        try:
            return (await bus.request(target, chunk, timeout_s=_CHUNK_TIMEOUT_S)).data
        except NoRespondersError:
            if attempt.last:
                raise
    raise AssertionError("the last attempt returns or raises")


def _check(name: str, answer: bytes) -> None:
    fault = read_object(answer, f"STREAM.RESTORE.{name}").get("error") if answer else None
    if fault:
        raise BusError(f"{name} cannot be restored: {fault.get('description')}")
