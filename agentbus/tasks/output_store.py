"""Outputs that are too large for a message: stored in the object store of their agent, read by reference.

The format is that of NATS object stores, so any NATS client can read it. The put is our own: that of
nats-py needs rights (reading by sequence, purging) with which a worker could reach the files of other agents.
"""

import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.errors import CorruptFileError, FileMissingError, MessageError, NotSettledError, OutputNotKeptError
from agentbus.protocol import subjects
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import decode, encode, object_in
from agentbus.protocol.subjects import COORDINATOR
from agentbus.protocol.timestamps import now
from agentbus.tasks.status import TaskStatus

CHUNK_BYTES: Final = 512 * 1024
_DIGEST: Final = "SHA-256="
_MAX_NAME_CHARS: Final = 512
_CHUNK_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored file: its size in bytes and the digest of its content."""

    bucket: str
    name: str
    size: int
    sha256: str


class Place(NamedTuple):
    """Where an object lies: its bucket, the id of its chunks, their subject, and that of its description."""

    bucket: str
    nuid: str
    chunks: str
    meta: str


class Description(BaseModel):
    """The fields of an object's description that reading needs; checked, since any worker of the agent can write it."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    nuid: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]  # becomes a part of a subject
    size: Annotated[int, Field(ge=0, lt=1 << 63)]
    chunks: Annotated[int, Field(ge=0, lt=1 << 63)]
    digest: str
    deleted: bool = False


def chunk_bytes(bus: Bus) -> int:
    """Return the largest size of one chunk on this bus."""
    return min(CHUNK_BYTES, bus.max_message_bytes - 4096)


async def put_file(
    bus: Bus, agent: str, name: str, chunks: AsyncIterable[bytes], *, owner: str = COORDINATOR
) -> StoredFile:
    """Store the concatenation of `chunks` under `name`, in constant memory; when this returns, all is stored.

    Each chunk is acknowledged before the next is sent. They are read in the order in which they were stored, so a
    repeated chunk must not come after a later one.

    Args:
        name: unique, because a stored file is never replaced: the id of the result that refers to it.
        chunks: pieces of at most `chunk_bytes(bus)`.
        owner: the coordinator whose task it belongs to, and who may read it.

    Raises:
        SetupMissingError: the agent has no bucket.
        StreamFullError: the bucket is full. No result refers to the chunks that were stored, and they expire.
        BusUnavailableError: no answer in time.
    """
    bucket, nuid = subjects.files_bucket(agent), random_token(22)
    place = Place(bucket, nuid, subjects.file_chunks(bucket, nuid, owner), _meta_subject(bucket, name, owner))
    return await put_object(bus, place, name, chunks)


async def put_object(bus: Bus, place: Place, name: str, chunks: AsyncIterable[bytes]) -> StoredFile:
    """Store the concatenation of `chunks` as an object; see `put_file`."""
    bucket, nuid = place.bucket, place.nuid
    digest, size, count = hashlib.sha256(), 0, 0
    async for chunk in chunks:
        subject = place.chunks
        await bus.store(subject, chunk, msg_id=f"{nuid}.{count}", timeout_s=_CHUNK_TIMEOUT_S)
        digest.update(chunk)
        size, count = size + len(chunk), count + 1
    meta = {
        "name": name,
        "bucket": bucket,
        "nuid": nuid,
        "size": size,
        "mtime": now(),
        "chunks": count,
        "digest": _DIGEST + base64.urlsafe_b64encode(digest.digest()).decode(),
        "options": {"max_chunk_size": chunk_bytes(bus)},
    }
    await bus.store(place.meta, encode(meta), msg_id=f"{nuid}.meta")
    return StoredFile(bucket, name, size, digest.hexdigest())


async def read_file(bus: Bus, agent: str, name: str, *, owner: str = COORDINATOR) -> AsyncGenerator[bytes]:
    """Yield the content of a stored file, piece by piece, in constant memory.

    An error after the last piece means that the pieces are not what was stored: the digest is known only then.

    Raises:
        FileMissingError: there is no such file, or its chunks have expired.
        CorruptFileError: the content is not what was stored.
    """
    bucket = subjects.files_bucket(agent)
    stream = subjects.files_stream(agent)
    if len(name) > _MAX_NAME_CHARS:
        raise FileMissingError(f"there is no file of the agent {agent} with a name of {len(name)} characters")
    found = await bus.last_message(stream, _meta_subject(bucket, name, owner))
    if found is None:
        raise FileMissingError(f"there is no file {name} of the agent {agent}; files are kept for 38 days by default")
    meta = read_description(found.data, name)
    digest, size = hashlib.sha256(), 0
    async with OrderedConsumer(bus, stream, subjects.file_chunks(bucket, meta.nuid, owner), after=0) as consumer:
        if consumer.pending != meta.chunks:
            raise FileMissingError(
                f"the file {name} is not whole: {consumer.pending} of {meta.chunks} chunks are there"
            )
        # A chunk may expire meanwhile: what is left ends the backlog, and the digest tells the difference.
        async with aclosing(consumer.backlog()) as chunks:
            async for chunk in chunks:
                digest.update(chunk.data)
                size += len(chunk.data)
                yield chunk.data
    expected = meta.digest.removeprefix(_DIGEST)
    if size != meta.size or base64.urlsafe_b64encode(digest.digest()).decode() != expected:
        raise CorruptFileError(f"the file {name} is not what was stored: its size or digest is different")


def read_description(data: bytes, name: str) -> Description:
    """Read the description of an object.

    Raises:
        CorruptFileError: it is none.
    """
    try:
        return Description.model_validate(decode(data))
    except (MessageError, ValidationError) as error:
        raise CorruptFileError(f"the description of the file {name} cannot be read: {type(error).__name__}") from None


async def read_output(bus: Bus, status: TaskStatus) -> AsyncGenerator[bytes]:
    """Yield the whole output of a settled task: from its result or, where that holds a part, from the stored file.

    Raises:
        NotSettledError: the task has no result yet.
        OutputNotKeptError: only a part of its output was kept.
        FileMissingError, CorruptFileError: see `read_file`.
    """
    if status.result is None:
        raise NotSettledError(f"the task {status.task_id} is {status.state}; it has no output yet")
    note = status.output_note
    if not note.get("truncated"):
        yield str(status.result.result).encode()
        return
    name = object_in(note.get("file")).get("name")
    if not isinstance(name, str):
        raise OutputNotKeptError(f"only the first {note.get('kept')} of {note.get('bytes')} bytes of output were kept")
    async for piece in read_file(bus, status.agent, name, owner=status.owner):
        yield piece


async def read_transcript(bus: Bus, status: TaskStatus) -> AsyncGenerator[bytes]:
    """Yield all that an agent printed in the last run of a settled task, where it prints events.

    Raises:
        NotSettledError: the task has no result yet.
        OutputNotKeptError: the run has no transcript, or it was not kept.
        FileMissingError, CorruptFileError: see `read_file`.
    """
    if not status.settled:
        raise NotSettledError(f"the task {status.task_id} is {status.state}; it has no transcript yet")
    name = object_in((status.record.entry.result or {}).get("transcript")).get("name")
    if not isinstance(name, str):
        raise OutputNotKeptError(f"the bus has no transcript of the task {status.task_id}")
    async for piece in read_file(bus, status.agent, name, owner=status.owner):
        yield piece


def _meta_subject(bucket: str, name: str, owner: str) -> str:
    return subjects.file_meta(bucket, base64.urlsafe_b64encode(name.encode()).decode(), owner)
