"""What tasks bring to an agent: coordinators put it into the agent's bucket, and its workers read it by direct get.

The task names each object with its size and SHA-256, which decide: what lies under the name is nothing else.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

from agentbus.bus.jetstream import Bus
from agentbus.errors import CorruptFileError, FileMissingError, PermissionDeniedError, SetupMissingError, WorkError
from agentbus.protocol.ids import random_token
from agentbus.protocol.work import input_names
from agentbus.protocol.work.task_work import SentObject
from agentbus.tasks.output_store import Place, put_object, read_description


class StoredInputs:
    """What one publisher has stored, so that a file that several tasks bring to one agent is stored once."""

    def __init__(self) -> None:
        self._storing: dict[tuple[str, str], asyncio.Lock] = {}
        self._stored: dict[tuple[str, str], SentObject] = {}

    async def once(self, agent: str, sha256: str, put: Callable[[], Awaitable[SentObject]]) -> SentObject:
        """Return what is stored for an agent under this digest; `put` stores it where nothing is."""
        key = agent, sha256
        async with self._storing.setdefault(key, asyncio.Lock()):
            if key not in self._stored:
                self._stored[key] = await put()
            return self._stored[key]


async def put_input(bus: Bus, agent: str, owner: str, name: str, chunks: AsyncIterable[bytes]) -> SentObject:
    """Store the concatenation of `chunks`, of at most `chunk_bytes(bus)` each; when this returns, all is stored.

    Raises:
        WorkError: the bus has no place for it, or this party may not write it.
        StreamFullError: the bucket is full. No task refers to the chunks that were stored, and they expire.
        BusUnavailableError: no answer in time.
    """
    bucket, nuid = input_names.bucket(agent), random_token(22)
    place = Place(bucket, nuid, input_names.chunks(agent, nuid, owner), _meta_subject(agent, name, owner))
    try:
        stored = await put_object(bus, place, name, chunks)
    except (SetupMissingError, PermissionDeniedError) as error:
        raise WorkError(
            f"no files can be sent to the agent {agent} on this bus: {error}; an administrator must run agentbus setup "
            "or, where parties have accounts, agentbus init --upgrade"
        ) from error
    return SentObject(bytes=stored.size, sha256=stored.sha256, object=name)


async def read_input(bus: Bus, agent: str, owner: str, wanted: SentObject) -> AsyncGenerator[bytes]:
    """Yield the content of an object that a task of `owner` brings, piece by piece, for a worker of the agent.

    An error after the last piece means that the pieces are not what the task names.

    Raises:
        FileMissingError: it is not, or no longer, there.
        CorruptFileError: it is not what the task names.
        BusError: the bus cannot be read.
    """
    stream = input_names.stream(agent)
    found = await bus.last_message(stream, _meta_subject(agent, wanted.object, owner))
    if found is None:
        raise FileMissingError(f"the task brings {wanted.object}, which is not on the bus; it is kept for 14 days")
    subject = input_names.chunks(agent, read_description(found.data, wanted.object).nuid, owner)
    digest, size, seq = hashlib.sha256(), 0, 1
    while size < wanted.bytes:
        chunk = await bus.next_message(stream, subject, seq)
        if chunk is None:
            break
        seq = chunk.seq + 1
        size += len(chunk.data)
        digest.update(chunk.data)
        if not chunk.data or size > wanted.bytes:
            break
        yield chunk.data
    if size != wanted.bytes or digest.hexdigest() != wanted.sha256:
        raise CorruptFileError(
            f"the object {wanted.object} is not what the task names: its size or digest is different"
        )


def _meta_subject(agent: str, name: str, owner: str) -> str:
    return input_names.meta(agent, base64.urlsafe_b64encode(name.encode()).decode(), owner)
