"""A copy of what is on the bus, in a folder, and the way back: JetStream's own snapshots, taken while the bus runs.

A snapshot holds messages with their sequences and the consumers with their progress, so what is restored goes on where
it was. The streams are copied one after the other, in an order in which nothing that was confirmed before is lost:
first the tasks, last the ledger and the files that it names. Whatever happened in between, the ledger knows more than
the others, and a task that is delivered again is settled from it.
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
from agentbus.bus.setup import place
from agentbus.config.private_files import open_private, private_folder, write_private
from agentbus.errors import BusError, BusUnavailableError, ConfigError, SetupMissingError
from agentbus.protocol import subjects

ORDER: Final = (
    subjects.TASKS_STREAM,
    subjects.RESULTS_STREAM,
    subjects.DEAD_STREAM,
    subjects.STATE_STREAM,
)
"""The streams of every bus; the files buckets of the agents follow. Who is alive is not kept."""
_FILES: Final = f"OBJ_{subjects.files_bucket('')}"
_CHUNK_BYTES: Final = 128 * 1024
_SILENCE_S: Final = 30.0
_DATA: Final = "snapshot"
_DESCRIPTION: Final = "stream.json"


@dataclass(frozen=True, slots=True)
class Copied:
    """One stream that was copied or restored."""

    stream: str
    messages: int
    bytes: int


async def back_up(bus: Bus, folder: Path) -> AsyncGenerator[Copied]:
    """Copy every stream of the bus into `folder`, which must be new or empty. The bus goes on meanwhile.

    Raises:
        ConfigError: something is in the folder, or it cannot be written.
        BusError: the bus broke off; the folder then holds a part, without the file that says that it is whole.
    """
    private_folder(folder)
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; a backup goes into a folder of its own")
    names = [name async for name in _streams(bus)]
    for name in names:
        yield await _snapshot(bus, name, folder / name)
    write_private(folder / "backup.json", json.dumps({"version": 1, "streams": names}) + "\n")


async def restore(bus: Bus, folder: Path, *, replicas: int | None = None) -> AsyncGenerator[Copied]:
    """Make the streams of a backup on a bus that has none of them.

    Args:
        replicas: copies in a cluster; None means as many as there were.

    Raises:
        ConfigError: there is no whole backup in the folder, or a stream of it exists on this bus.
        BusError: the server refused.
    """
    try:
        names: list[str] = json.loads((folder / "backup.json").read_text("utf-8"))["streams"]
        wanted = {name: json.loads((folder / name / _DESCRIPTION).read_text("utf-8")) for name in names}
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"there is no whole backup in {folder}") from None
    for name in names:
        if await _exists(bus, name):
            raise ConfigError(
                f"{name} exists on this bus; a backup is restored on a bus without streams: an empty store"
            )
    # The ledger first: no worker may meet a task whose state is not there yet.
    for name in sorted(names, key=lambda name: name == subjects.TASKS_STREAM):
        config = {**wanted[name]["config"], **({"num_replicas": replicas} if replicas is not None else {})}
        yield await _restore(bus, name, folder / name / _DATA, config, wanted[name]["state"])


async def _streams(bus: Bus) -> AsyncGenerator[str]:
    found = await bus.stream_names()
    for name in ORDER:
        if name in found:
            yield name
    for name in sorted(found):
        if name.startswith(_FILES):
            yield name


async def _exists(bus: Bus, name: str) -> bool:
    try:
        await bus.stream_info(name)
    except SetupMissingError:
        return False
    return True


async def _snapshot(bus: Bus, name: str, folder: Path) -> Copied:
    """Take down a snapshot, piece by piece; each is acknowledged, so the server never sends more than a few ahead."""
    private_folder(folder)
    inbox, pieces = bus.new_inbox(), asyncio.Queue[Msg]()
    end = await bus.subscribe(inbox, pieces.put_nowait)
    try:
        wanted = {"deliver_subject": inbox, "chunk_size": _CHUNK_BYTES, "no_consumers": False}
        verb = f"STREAM.SNAPSHOT.{name}"
        answer = read_snapshot(await bus.api(verb, wanted), verb)
        size = 0
        with _on_disk(folder), open_private(folder / _DATA) as file:
            while (message := await _next(pieces, name)).data:
                file.write(message.data)
                size += len(message.data)
                if message.reply:
                    await bus.publish(message.reply)
        headers = dict(message.headers or {})
        if headers.get("Status", "204") != "204":
            raise BusError(f"the snapshot of {name} broke off: {headers.get('Description', headers['Status'])}")
    finally:
        await end()
    description = {"config": answer.config, "state": answer.state}
    write_private(folder / _DESCRIPTION, json.dumps(description) + "\n")
    return Copied(name, answer.messages, size)


@contextmanager
def _on_disk(path: Path) -> Generator[None]:
    """Name the place that cannot be read or written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"the backup in {path} breaks off: {error.strerror or error}") from None


async def _next(pieces: asyncio.Queue[Msg], name: str) -> Msg:
    try:
        async with asyncio.timeout(_SILENCE_S):
            return await pieces.get()
    except TimeoutError:
        raise BusUnavailableError(f"nothing more of {name} has come for {_SILENCE_S:g} s") from None


async def _restore(bus: Bus, name: str, data: Path, config: dict[str, Any], state: dict[str, Any]) -> Copied:
    verb = f"STREAM.RESTORE.{name}"
    target, size = read_deliver_subject(await place(bus, verb, {"config": config, "state": state}), verb), 0
    with _on_disk(data), data.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            said = await bus.request(target, piece, timeout_s=_SILENCE_S)
            _check(name, said.data)
            size += len(piece)
    said = await bus.request(target, b"", timeout_s=_SILENCE_S)
    _check(name, said.data)
    return Copied(name, read_stream_info(read_object(said.data, verb), verb).state.messages, size)


def _check(name: str, answer: bytes) -> None:
    fault = read_object(answer, f"STREAM.RESTORE.{name}").get("error") if answer else None
    if fault:
        raise BusError(f"{name} cannot be restored: {fault.get('description')}")
